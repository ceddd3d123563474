"""SEATS: tokens leave in stages, before the decoder and inside it (arXiv 2605.20035).

    1 before     in each window of 2 s, sound and picture apart, the tokens stay that differ most from each other,
                 weighted by the attention that the towers paid them (diversity.py)
    2 inside     after each of three layers, those stay that the question attends to, shared over windows and senses
                 (windows.py)
    3 late       some layers later all media tokens leave: their content has moved into the text

`schedule.py` says how many stay at each stage, so that the mean over the layers is the share asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from epcli.records import CHUNK_S, KeptStream, Modality, TokenStream
from epcli.sieve.drops import Drop, LayerOutput
from epcli.sieve.seats.diversity import keep_diverse, reference_counts
from epcli.sieve.seats.schedule import Schedule
from epcli.sieve.seats.windows import Step, attention_of_last, runs, split_step
from epcli.sieve.select import keep_only

KINDS = (Modality.VIDEO, Modality.AUDIO)
REFERENCE_AUDIO_WINDOW = 50  # tokens


def sift(stream: TokenStream, schedule: Schedule, *, reference: bool = False) -> KeptStream:
    """What enters the decoder, and which tokens leave inside it.

    `reference`: windows are counted in tokens and runs, and each is rounded by itself, as in the published code. The
    default takes windows of the clock, and the places of all windows together are the share asked for.
    """
    modality = stream.modality.cpu()
    kept = modality == Modality.TEXT
    for kind, share in zip(KINDS, schedule.entering, strict=True):
        kept[modality == kind] = enter(stream, kind, share, reference=reference)[0]
    found = keep_only(stream, kept, None)
    if not schedule.drops:
        return found
    kinds = stream.modality[found.indices]
    windows = None if reference else clock_windows(stream)[found.indices.cpu()]
    steps = [
        Drop(after, InLayer(kinds, windows, ratios))
        for after, ratios in zip(schedule.drops, zip(*schedule.ratios, strict=True), strict=True)
    ]
    return KeptStream(
        stream,
        found.embeds,
        found.positions,
        found.indices,
        None,
        (*steps, Drop(schedule.last, TextOnly(kinds))),
    )


def enter(stream: TokenStream, kind: Modality, share: float, *, reference: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Stage 1 for one sense: (n,) bool of its n tokens, and each window's picks in the order made."""
    which = (stream.modality == kind).to(stream.embeds.device)
    embeds = stream.embeds[which]
    attention = (
        torch.ones(len(embeds)) if stream.attention is None else stream.attention[which.to(stream.attention.device)]
    )
    if reference:
        length = 2 * stream.grid[0] * stream.grid[1] if kind == Modality.VIDEO else REFERENCE_AUDIO_WINDOW
        window = torch.arange(len(embeds)) // max(length, 1)
    else:
        window = clock_windows(stream)[which.cpu()]
    sizes = window.unique(return_counts=True)[1] if len(window) else torch.zeros(0, dtype=torch.int64)
    counts = reference_counts(sizes, share) if reference else even_counts(sizes, share)
    return keep_diverse(embeds, attention, sizes, counts, reference=reference)


def even_counts(sizes: Tensor, share: float) -> Tensor:
    """Places of each window in proportion to its size; in all the share asked for, and one at least."""
    ends = (sizes.cumsum(0).double() * share).round().long()
    if len(ends) and not ends[-1]:
        ends[-1] = 1
    return torch.diff(ends, prepend=torch.zeros(1, dtype=torch.int64))


def window_sizes(stream: TokenStream) -> list[int]:
    """Tokens of each window and sense, at stage 1."""
    windows, modality = clock_windows(stream), stream.modality.cpu()
    return [size for kind in KINDS for size in windows[modality == kind].bincount().tolist()]


def clock_windows(stream: TokenStream) -> Tensor:
    """(L,) int64 number of the 2 s window in which each token begins; 0 for text."""
    return (stream.spans_s[:, 0].cpu().nan_to_num() / CHUNK_S + 1e-6).long()


@dataclass(frozen=True, eq=False)
class InLayer:
    """Stage 2, one drop: what the last text token attends to, shared over windows and senses."""

    kinds: Tensor  # (K,) uint8 modality of the tokens that entered
    windows: Tensor | None  # (K,) int64 window of each; None: runs of adjacent tokens are windows
    ratios: tuple[float, float]  # share of the video and of the sound tokens left that stay

    def __call__(self, found: LayerOutput) -> Tensor:
        return self.step(found).kept.to(found.left.device)

    def step(self, found: LayerOutput) -> Step:
        kinds = self.kinds[found.left].cpu()
        scores = attention_of_last(found, int((kinds == Modality.TEXT).nonzero()[-1])).cpu()
        windows = runs(kinds) if self.windows is None else self.windows[found.left.cpu()]
        return split_step(scores, kinds, windows, self.ratios)


@dataclass(frozen=True, eq=False)
class TextOnly:
    """Stage 3: all media tokens leave."""

    kinds: Tensor  # (K,) uint8

    def __call__(self, found: LayerOutput) -> Tensor:
        return (self.kinds[found.left] == Modality.TEXT).nonzero().squeeze(-1)
