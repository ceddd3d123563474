"""Laying tokens out in one stream: 2-second chunks, video then sound, positions in 40 ms steps.

The rules are those of transformers' Qwen2.5-Omni `get_rope_index` with audio in video, for towers of any token rate:
chunk c holds the tokens whose time lies in [2c, 2c + 2) seconds; both streams start at the same position; paired begin
markers share one position and so do the end markers; the next segment starts one after the last chunk's largest
position; the fourth axis repeats the first (Sync-RoPE, arXiv 2512.10324).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from epcli.records import CHUNK_S, POSITION_STEP_S, Modality, TokenStream

CHUNK_STEPS = round(CHUNK_S / POSITION_STEP_S)


@dataclass(frozen=True, eq=False)
class VideoTokens:
    """Projected frames."""

    embeds: Tensor  # (N, rows, cols, D)
    times_s: Tensor  # (N,) float64, ascending
    step_s: float


@dataclass(frozen=True, eq=False)
class AudioTokens:
    """Projected sound."""

    embeds: Tensor  # (A, D)
    steps: int  # position steps a token


@dataclass(frozen=True, eq=False)
class Segment:
    """A run of tokens with everything a TokenStream needs."""

    embeds: Tensor  # (L, D)
    positions: Tensor  # (4, L)
    modality: Tensor  # (L,)
    spans_s: Tensor  # (L, 2)
    cells: Tensor  # (L, 3)
    grid: tuple[int, int]
    next_position: int


def _segment(
    embeds: Tensor, positions: Tensor, modality: Modality, spans: Tensor | None = None, cells: Tensor | None = None
) -> Segment:
    length = embeds.shape[0]
    return Segment(
        embeds,
        positions,
        torch.full((length,), int(modality), dtype=torch.uint8),
        torch.full((length, 2), float("nan")) if spans is None else spans.float(),
        torch.full((length, 3), -1, dtype=torch.int16) if cells is None else cells.to(torch.int16),
        (0, 0),
        int(positions.max()) + 1 if length else 0,
    )


def text(table: Tensor, ids: Sequence[int], start: int) -> Segment:
    """Token ids as embeddings, all four axes counting up from `start`."""
    index = torch.tensor(list(ids), dtype=torch.int64, device=table.device)
    positions = (start + torch.arange(len(ids))).expand(4, -1)
    return _segment(torch.nn.functional.embedding(index, table).float(), positions, Modality.TEXT)


def interleave(video: VideoTokens | None, audio: AudioTokens | None, markers: Tensor, start: int) -> Segment:
    """Begin markers, V0 A0 V1 A1 …, end markers. `markers` (4, D): video begin, audio begin, audio end, video end.

    A stream that is missing brings no tokens and no markers; with neither the segment is empty.
    """
    open_rows = [row for row, there in ((0, video), (1, audio)) if there is not None]
    close_rows = [row for row, there in ((2, audio), (3, video)) if there is not None]
    parts: list[Segment] = []
    grid = (0, 0)
    if open_rows:
        parts.append(_segment(markers[open_rows], torch.full((4, len(open_rows)), start), Modality.TEXT))
    first = start + 1
    v_t = a_t = torch.zeros(0, dtype=torch.int64)
    if video is not None:
        grid = (video.embeds.shape[1], video.embeds.shape[2])
        v_t = (video.times_s / POSITION_STEP_S + 1e-6).long()
    if audio is not None:
        a_t = torch.arange(audio.embeds.shape[0]) * audio.steps
    last = int(max([int(t[-1]) for t in (v_t, a_t) if len(t)], default=0))
    end = start
    for chunk in range(last // CHUNK_STEPS + 1):
        low, high = chunk * CHUNK_STEPS, (chunk + 1) * CHUNK_STEPS
        if video is not None:
            frames = ((v_t >= low) & (v_t < high)).nonzero()[:, 0]
            if len(frames):
                parts.append(_video_chunk(video, frames, v_t, first))
                end = parts[-1].next_position
        if audio is not None:
            tokens = ((a_t >= low) & (a_t < high)).nonzero()[:, 0]
            if len(tokens):
                spans = torch.stack([tokens, tokens + 1], 1) * audio.steps * POSITION_STEP_S
                parts.append(_segment(audio.embeds[tokens], (first + a_t[tokens]).expand(4, -1), Modality.AUDIO, spans))
                end = parts[-1].next_position
    if close_rows:
        parts.append(_segment(markers[close_rows], torch.full((4, len(close_rows)), end), Modality.TEXT))
        end += 1
    return _concatenate(parts, grid, end, markers)


def _video_chunk(video: VideoTokens, frames: Tensor, v_t: Tensor, first: int) -> Segment:
    n, (rows, cols) = len(frames), (video.embeds.shape[1], video.embeds.shape[2])
    f, y, x = (
        i.reshape(-1) for i in torch.meshgrid(torch.arange(n), torch.arange(rows), torch.arange(cols), indexing="ij")
    )
    t = v_t[frames][f]
    positions = torch.stack([t, y, x, t]) + first
    begin = video.times_s[frames][f]
    spans = torch.stack([begin, begin + video.step_s], 1)
    cells = torch.stack([frames[f], y, x], 1)
    return _segment(video.embeds[frames].flatten(0, 2), positions, Modality.VIDEO, spans, cells)


def _concatenate(parts: list[Segment], grid: tuple[int, int], next_position: int, like: Tensor) -> Segment:
    if not parts:
        empty = _segment(like[:0], torch.zeros(4, 0, dtype=torch.int64), Modality.TEXT)
        return Segment(empty.embeds, empty.positions, empty.modality, empty.spans_s, empty.cells, grid, next_position)
    return Segment(
        torch.cat([p.embeds for p in parts]),
        torch.cat([p.positions for p in parts], 1),
        torch.cat([p.modality for p in parts]),
        torch.cat([p.spans_s for p in parts]),
        torch.cat([p.cells for p in parts]),
        grid,
        next_position,
    )


def join(parts: Sequence[Segment], dtype: torch.dtype, device: torch.device) -> TokenStream:
    """Segments in reading order as one stream. Generation goes on after the largest position."""
    grid = next((p.grid for p in parts if p.grid != (0, 0)), (0, 0))
    whole = _concatenate(list(parts), grid, 0, parts[0].embeds)
    return TokenStream(
        whole.embeds.to(device, dtype),
        whole.positions.to(device),
        whole.modality.to(device),
        whole.spans_s,
        whole.cells,
        grid,
        int(whole.positions.max()) + 1,
    )
