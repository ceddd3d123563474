"""SEATS (arXiv 2605.20035): needs no training, and drops tokens inside the decoder too. The algorithm: sieve/seats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from epcli.sieve.selector import Selector, Tools

if TYPE_CHECKING:
    from epcli.records import KeptStream, TokenStream
    from epcli.sieve.select import Budget


def keep(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """The `run` of this selector. The budget is the mean over the decoder's layers."""
    from epcli.records import Modality
    from epcli.sieve.seats import sift
    from epcli.sieve.seats.schedule import schedule_for_mean

    decoder = tools.attention_decoder("seats")
    video, sound = (int((stream.modality == kind).sum()) for kind in (Modality.VIDEO, Modality.AUDIO))
    share = budget.count(video + sound) / (video + sound) if video + sound else 1.0
    return sift(stream, schedule_for_mean(len(decoder.layers), share, video, sound))


SELECTOR = Selector(
    name="seats",
    help="in each window of 2 s the tokens that differ most, weighted by the towers' attention; inside the decoder the "
    "tokens that the question attends to; in the last layers text only, as in SEATS "
    "([2605.20035](https://arxiv.org/abs/2605.20035))",
    shown="They differ most from each other. Inside the language model, those stayed that the question attends to.",
    run=keep,
    needs=("decoder",),
    drops_inside=True,
)
