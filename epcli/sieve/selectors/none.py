"""No selection: the plain model. Everything, whatever the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from epcli.sieve.selector import Selector, Tools

if TYPE_CHECKING:
    from epcli.records import KeptStream, TokenStream
    from epcli.sieve.select import Budget


def keep(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """The `run` of this selector."""
    import torch

    from epcli.sieve.select import keep_only

    return keep_only(stream, torch.ones(len(stream.modality), dtype=torch.bool, device=stream.modality.device), None)


SELECTOR = Selector(
    name="none",
    help="all tokens; this is the plain model",
    shown="Nothing was dropped.",
    run=keep,
)
