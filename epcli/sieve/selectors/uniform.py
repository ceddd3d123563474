"""Sound tokens at even steps; picture tokens spread evenly over the frames and, within them, over the grid."""

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
    from epcli.sieve.select import best_of_groups, even_steps, keep_only, split_as_published

    modality = stream.modality.cpu()
    kept = modality == Modality.TEXT
    picture, sound = (modality == kind for kind in (Modality.VIDEO, Modality.AUDIO))
    for_picture, for_sound = split_as_published(budget, picture, sound)
    kept[sound] = even_steps(int(sound.sum()), for_sound)
    if for_picture:
        frame, row, column = stream.cells.cpu()[picture].long().unbind(-1)
        # Each frame's cells in an order of which every beginning is spread out: an additive recurrence in two
        # dimensions, 1/p and 1/p^2 with p^3 = p + 1 (plastic number), shifted from frame to frame by the golden ratio.
        order = (row * 0.7548776662 + column * 0.5698402910 + frame * 0.6180339887).frac()
        group = frame.unique(return_inverse=True)[1]
        ends = (group.bincount().cumsum(0) * for_picture / len(group)).round().long()  # places up to each frame's end
        kept[picture] = best_of_groups(-order, group, torch.diff(ends, prepend=torch.zeros(1, dtype=torch.int64)))
    return keep_only(stream, kept, None)


SELECTOR = Selector(
    name="uniform",
    help="tokens at even steps in time and over the picture; a larger share of the sound, as published for SEATS",
    shown="They lie at even steps, whatever the question.",
    run=keep,
)
