"""The trained sieve with a fixed budget: sound and picture keep their own best, in proportion to their tokens.

As many tokens stay in all as with cs2. The paper's ablation, and a measure of what competing in one pool is worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epcli.sieve.selector import Selector, Tools

if TYPE_CHECKING:
    from epcli.records import KeptStream, TokenStream
    from epcli.sieve.select import Budget


def keep(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """The `run` of this selector."""
    from epcli.sieve.select import Budget, narrow
    from epcli.sieve.selectors import cs2

    return narrow(cs2.keep(stream, Budget(ratio=1.0), tools), budget, per_modality=True)


SELECTOR = Selector(
    name="cs2-per-modality",
    help="by the same scores, but sound and picture each have a fixed share: what the joint pool is measured against",
    shown="They are those that the trained sieve scored highest for this question, each kind by itself.",
    run=keep,
    needs=("sieve",),
    scored_by="cs2",
    refines=True,
)
