"""The trained sieve (CS2 of EchoingPixels, arXiv 2512.10324). With a budget of everything it still refines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from epcli.sieve.selector import Selector, Tools

if TYPE_CHECKING:
    from epcli.records import KeptStream, TokenStream
    from epcli.sieve.select import Budget


def keep(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """The `run` of this selector."""
    from epcli.errors import UsageError
    from epcli.records import KeptStream, Modality
    from epcli.sieve.selectors import TRAINING_FREE

    if tools.sieve is None:
        raise UsageError(f"selector cs2 needs a model with a trained sieve, and this one has none; try {TRAINING_FREE}")
    is_av = stream.modality.to(stream.embeds.device) != Modality.TEXT
    out = tools.sieve(
        stream.embeds[None], stream.positions[:, None], is_av[None], budget, window_tokens=tools.window_tokens
    )
    return KeptStream(stream, out.embeds[0], out.positions[:, 0], out.indices[0], out.scores[0])


SELECTOR = Selector(
    name="cs2",
    help="the tokens with the best scores of a trained sieve, which reads question, sound and picture together",
    shown="The trained sieve gave them the highest scores for this question.",
    run=keep,
    needs=("sieve",),
    scored_by="cs2",
    refines=True,
)
