"""Laying sound and picture tokens out in one stream: 2-second chunks, video then sound, positions in 40 ms steps.

The rules are those of transformers' Qwen2.5-Omni `get_rope_index` with audio in video, for towers of any token rate:
chunk c holds the tokens whose time lies in [2c, 2c + 2) seconds; both streams start at the same position; paired begin
markers share one position and so do the end markers; the next segment starts one after the last chunk's largest
position; the fourth axis repeats the first (Sync-RoPE, arXiv 2512.10324).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from epcli.records import CHUNK_S, POSITION_STEP_S, Modality, TokenStream

CHUNK_STEPS = round(CHUNK_S / POSITION_STEP_S)
SIGHT_GRID = (8, 14)  # rows and columns on which the middle of an observation's box gives its position
WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class VideoTokens:
    """Projected grids of N frames, or groups of frames."""

    embeds: Tensor  # (N, rows, cols, D)
    times_s: Tensor  # (N,) float64, ascending
    step_s: float
    steps: Tensor | None = None  # (N,) int64 position steps from the clip's start; None: those of `times_s`
    chunks: Tensor | None = None  # (N * rows * cols,) int64 chunk in which each token stands; None: that of its time
    attention: Tensor | None = None  # (N, rows, cols) float32 that each token receives in its tower; None: 1


@dataclass(frozen=True, eq=False)
class SightTokens:
    """Projected observations of N sampled frames: n tokens, any number of them from a frame, frame after frame."""

    embeds: Tensor  # (n, D)
    frame: Tensor  # (n,) int64 sampled frame of each, ascending
    times_s: Tensor  # (N,) float64 presentation times of all sampled frames, ascending
    step_s: float
    boxes: Tensor  # (n, 4) float32 left, top, right, bottom as shares of width and height; WHOLE_PICTURE where no box
    labels: tuple[str, ...]  # of each: "person", "text 'EXIT'", "cut", "" for none; pieces of one name share it and box
    later: Tensor | None = None  # (n,) int64 position steps after its frame's, to order pieces of a text; None: 0
    attention: Tensor | None = None  # (n,) float32 as a tower's; None: 1


@dataclass(frozen=True, eq=False)
class AudioTokens:
    """Projected sound."""

    embeds: Tensor  # (A, D)
    steps: int  # position steps a token
    attention: Tensor | None = None  # (A,) float32 that each token receives in its tower; None: 1
    labels: tuple[str, ...] | None = None  # of each: "dog", in quotes the piece that is said, "' hel'", "" for nothing


@dataclass(frozen=True, eq=False)
class Segment:
    """A run of tokens with everything a TokenStream needs."""

    embeds: Tensor  # (L, D)
    positions: Tensor  # (4, L)
    modality: Tensor  # (L,)
    spans_s: Tensor  # (L, 2)
    cells: Tensor  # (L, 3)
    attention: Tensor  # (L,) float32
    grid: tuple[int, int]
    next_position: int
    boxes: Tensor | None = None  # (L, 4) float32, NaN for text and sound
    labels: tuple[str, ...] | None = None  # of each token


@dataclass(frozen=True, eq=False)
class _Placed:
    """The tokens of one modality, before they are interleaved. n of them."""

    embeds: Tensor  # (n, D)
    steps: Tensor  # (4, n) int64 from the clip's start
    chunks: Tensor  # (n,) int64
    spans_s: Tensor  # (n, 2) float32
    cells: Tensor  # (n, 3) int16
    attention: Tensor  # (n,) float32
    modality: Modality
    boxes: Tensor | None = None  # (n, 4) float32
    labels: tuple[str, ...] | None = None  # n of them


def text(embeds: Tensor, start: int) -> Segment:
    """(L, D) embedded token ids, all four axes counting up from `start`."""
    positions = (start + torch.arange(len(embeds))).expand(4, -1)
    return _text(embeds, positions, start + len(embeds))


def _text(embeds: Tensor, positions: Tensor, next_position: int) -> Segment:
    length = len(embeds)
    return Segment(
        embeds,
        positions,
        torch.full((length,), int(Modality.TEXT), dtype=torch.uint8),
        torch.full((length, 2), float("nan")),
        torch.full((length, 3), -1, dtype=torch.int16),
        torch.ones(length),
        (0, 0),
        next_position,
    )


def interleave(
    video: VideoTokens | SightTokens | None, audio: AudioTokens | None, markers: Tensor, start: int
) -> Segment:
    """Begin markers, V0 A0 V1 A1 …, end markers. `markers` (4, D): video begin, audio begin, audio end, video end.

    A stream that is missing brings no tokens and no markers; with neither the segment is empty.
    """
    placed, grid = [], (0, 0)
    if isinstance(video, SightTokens):
        placed, grid = [_place_sights(video)], SIGHT_GRID
    elif video is not None:
        placed, grid = [_place_video(video)], (video.embeds.shape[1], video.embeds.shape[2])
    placed += [_place_audio(audio)] if audio is not None else []
    if not placed:
        return _text(markers[:0], torch.zeros(4, 0, dtype=torch.int64), start)
    open_rows = [row for row, there in ((0, video), (1, audio)) if there is not None]
    close_rows = [row for row, there in ((2, audio), (3, video)) if there is not None]
    modality = torch.cat([torch.full((len(p.chunks),), int(p.modality), dtype=torch.uint8) for p in placed])
    # VIDEO < AUDIO, and within a chunk's run of one modality the tokens keep their order
    run = torch.cat([p.chunks for p in placed]) * len(Modality) + modality
    order = run.argsort(stable=True)
    positions = start + 1 + torch.cat([p.steps for p in placed], 1)[:, order]
    last = run[order] == run.max() if len(order) else run.bool()
    end = int(positions[:, last].max()) + 1 if len(order) else start + 1
    embeds = torch.cat([p.embeds for p in placed])[order]
    boxes, labels = _boxes(placed), _labels(placed)
    media = Segment(
        embeds,
        positions,
        modality[order],
        torch.cat([p.spans_s for p in placed])[order],
        torch.cat([p.cells for p in placed])[order],
        torch.cat([p.attention for p in placed])[order],
        grid,
        end,
        None if boxes is None else boxes[order],
        None if labels is None else tuple(labels[place] for place in order.tolist()),
    )
    around = markers.to(embeds.device)
    opened = _text(around[open_rows], torch.full((4, len(open_rows)), start), start + 1)
    closed = _text(around[close_rows], torch.full((4, len(close_rows)), end), end + 1)
    return _concatenate([opened, media, closed])


def _place_video(video: VideoTokens) -> _Placed:
    count, rows, cols = video.embeds.shape[:3]
    axes = torch.meshgrid(torch.arange(count), torch.arange(rows), torch.arange(cols), indexing="ij")
    frame, y, x = (axis.reshape(-1) for axis in axes)
    steps = (video.times_s / POSITION_STEP_S + 1e-6).long() if video.steps is None else video.steps
    t, begin = steps[frame], video.times_s[frame]
    return _Placed(
        video.embeds.flatten(0, 2),
        torch.stack([t, y, x, t]),
        t // CHUNK_STEPS if video.chunks is None else video.chunks,
        torch.stack([begin, begin + video.step_s], 1).float(),
        torch.stack([frame, y, x], 1).to(torch.int16),
        torch.ones(len(frame)) if video.attention is None else video.attention.flatten().float(),
        Modality.VIDEO,
    )


def _place_sights(sights: SightTokens) -> _Placed:
    """The middle of its box on SIGHT_GRID gives an observation's height and width; its frame gives the rest."""
    rows, columns = SIGHT_GRID
    left, top, right, bottom = sights.boxes.unbind(1)
    y, x = (
        ((low + high) / 2 * count).long().clamp(0, count - 1)
        for low, high, count in ((top, bottom, rows), (left, right, columns))
    )
    begin = sights.times_s[sights.frame]
    shown = (begin / POSITION_STEP_S + 1e-6).long()
    t = shown if sights.later is None else shown + sights.later
    return _Placed(
        sights.embeds,
        torch.stack([t, y, x, t]),
        shown // CHUNK_STEPS,
        torch.stack([begin, begin + sights.step_s], 1).float(),
        torch.stack([sights.frame, y, x], 1).to(torch.int16),
        torch.ones(len(y)) if sights.attention is None else sights.attention.float(),
        Modality.VIDEO,
        sights.boxes.float(),
        sights.labels,
    )


def _place_audio(audio: AudioTokens) -> _Placed:
    token = torch.arange(len(audio.embeds))
    t = token * audio.steps
    return _Placed(
        audio.embeds,
        t.expand(4, -1),
        t // CHUNK_STEPS,
        torch.stack([token, token + 1], 1) * audio.steps * POSITION_STEP_S,
        torch.full((len(token), 3), -1, dtype=torch.int16),
        torch.ones(len(token)) if audio.attention is None else audio.attention.float(),
        Modality.AUDIO,
        labels=audio.labels,
    )


def _boxes(parts: Sequence[Segment | _Placed]) -> Tensor | None:
    """(L, 4) boxes of all parts, NaN where a part has none; None if no part has any."""
    if all(part.boxes is None for part in parts):
        return None
    none = float("nan")
    return torch.cat([torch.full((len(p.embeds), 4), none) if p.boxes is None else p.boxes for p in parts])


def _labels(parts: Sequence[Segment | _Placed]) -> tuple[str, ...] | None:
    """The labels of all parts, "" where a part has none; None if no part has any."""
    if all(part.labels is None for part in parts):
        return None
    return tuple(label for p in parts for label in (("",) * len(p.embeds) if p.labels is None else p.labels))


def _concatenate(parts: Sequence[Segment]) -> Segment:
    """Goes on where the last part ends."""
    return Segment(
        torch.cat([p.embeds for p in parts]),
        torch.cat([p.positions for p in parts], 1),
        torch.cat([p.modality for p in parts]),
        torch.cat([p.spans_s for p in parts]),
        torch.cat([p.cells for p in parts]),
        torch.cat([p.attention for p in parts]),
        next((p.grid for p in parts if p.grid != (0, 0)), (0, 0)),
        parts[-1].next_position,
        _boxes(parts),
        _labels(parts),
    )


def join(parts: Sequence[Segment], dtype: torch.dtype, device: torch.device) -> TokenStream:
    """Segments in reading order as one stream. Generation goes on after the largest position."""
    whole = _concatenate([replace(part, embeds=part.embeds.to(device, dtype)) for part in parts])
    return TokenStream(
        whole.embeds,
        whole.positions.to(device),
        whole.modality.to(device),
        whole.spans_s,
        whole.cells,
        whole.grid,
        int(whole.positions.max()) + 1,
        whole.attention.to(device),
        whole.boxes,
        whole.labels,
    )
