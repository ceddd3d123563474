"""The trained sieve with a fixed budget: sound and picture keep their own best, in proportion to their tokens.

As many tokens stay in all as with cs2. The paper's ablation, and a measure of what competing in one pool is worth.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from epcli.sieve.selectors import cs2

if TYPE_CHECKING:
    from epcli.records import KeptStream, TokenStream
    from epcli.sieve.select import Budget
    from epcli.sieve.selector import Tools


def keep(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """The `run` of this selector."""
    from epcli.sieve.select import Budget, narrow

    return narrow(cs2.keep(stream, Budget(ratio=1.0), tools), budget, per_modality=True)


SELECTOR = replace(
    cs2.SELECTOR,
    name="cs2-per-modality",
    help="the best by the same scores, with a fixed share each for sound and picture; the baseline for the joint pool",
    shown="The trained sieve gave them the highest scores for this question, sound and picture apart.",
    run=keep,
)
