"""A random draw: each set of k tokens is equally likely, and a seed draws the same set on every device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from epcli.sieve.selector import Selector, Tools

if TYPE_CHECKING:
    from epcli.records import KeptStream, TokenStream
    from epcli.sieve.select import Budget


def keep(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """The `run` of this selector."""
    import torch

    from epcli.records import Modality
    from epcli.sieve.select import best, keep_only

    draws = torch.rand(len(stream.modality), generator=torch.Generator().manual_seed(tools.seed))
    is_av = stream.modality.cpu() != Modality.TEXT
    return keep_only(stream, ~is_av | best(draws, is_av, budget.count(int(is_av.sum()))), None)


SELECTOR = Selector(
    name="random",
    help="a random choice, set by `--seed`; a strong baseline",
    shown="They were chosen at random.",
    run=keep,
    needs=("seed",),
)
