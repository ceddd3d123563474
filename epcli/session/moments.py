"""Media tokens as people think of them, and the stretches of a clip that they form: times, places, words. No torch."""

from __future__ import annotations

import numpy as np

from epcli.records import ClipSummary, MediaTokens, Modality, Moment, TokenStream
from epcli.text import format_range, format_time

STANDS_OUT = 0.3  # share of its modality's peak that a sound's, a frame's or a cell's evidence needs
MOST = 5  # moments told
LEAST = 0.05  # share of all evidence that a moment needs to be told
SOUND_GAP_S = 0.4  # sound closer than this is one moment
SMOOTH_S = 0.36  # sound's evidence is meant over this: single tokens stand out by chance
WORDS = {"video": "picture", "audio": "sound"}


def media_tokens(stream: TokenStream, clip: ClipSummary) -> MediaTokens:
    """The stream's sound and picture tokens, in the seconds and the displayed pixels of their file."""
    modality = stream.modality.cpu().numpy()
    places = modality != Modality.TEXT
    modality = modality[places]
    spans = stream.spans_s.cpu().numpy()[places].astype(np.float64)
    cells = stream.cells.cpu().numpy()[places]
    picture, (start, end) = modality == Modality.VIDEO, clip.range_s
    boxes = np.full((len(cells), 4), -1, np.int32)
    if picture.any() and clip.frame_times_s:
        times = np.asarray(clip.frame_times_s, np.float64)
        spans[picture] = frame_spans(times, clip.duration_s, int(cells[:, 0].max()) + 1)[cells[picture, 0]]
        steps = np.array([[stream.grid[1]], [stream.grid[0]]])
        low = cells[picture, 2:0:-1].T  # column, row
        size = np.array([[clip.info.width], [clip.info.height]])
        boxes[picture] = np.concatenate([low * size // steps, (low + 1) * size // steps]).T
    return MediaTokens(modality, (spans + start).clip(start, max(start, end)), cells, boxes, stream.grid)


def frame_spans(times_s: np.ndarray, duration_s: float, grids: int) -> np.ndarray:
    """(N,) frame times -> (grids, 2) the stretch each grid stands for: halfway to the frames before and after.

    A grid may hold several frames (Qwen2.5-Omni: two).
    """
    edges = np.concatenate([[0.0], (times_s[1:] + times_s[:-1]) / 2, [max(duration_s, float(times_s[-1]))]])
    each = -(-len(times_s) // grids)
    first = np.arange(grids) * each
    return np.stack([edges[first], edges[np.minimum(first + each, len(times_s))]], 1)


def moments(tokens: MediaTokens, evidence: np.ndarray) -> tuple[Moment, ...]:
    """The stretches that stand out of (n,) evidence that sums to 1, most of it first."""
    found = [*_of_sound(tokens, evidence), *_of_picture(tokens, evidence)]
    found = sorted((moment for moment in found if moment.share >= LEAST), key=lambda moment: -moment.share)
    return tuple(found[:MOST])


def _of_sound(tokens: MediaTokens, evidence: np.ndarray) -> list[Moment]:
    places = np.flatnonzero((tokens.modality == Modality.AUDIO) & (evidence > 0))
    if not len(places):
        return []
    spans, weights = tokens.spans_s[places], evidence[places]
    middle = spans.mean(1)
    sums = np.concatenate([[0.0], weights.cumsum()])
    low, high = (np.searchsorted(middle, middle + side * SMOOTH_S / 2 * 1.001) for side in (-1, 1))
    level = sums[high] - sums[low]
    chosen = np.flatnonzero(level >= STANDS_OUT * level.max())
    runs = np.split(chosen, np.flatnonzero(spans[chosen[1:], 0] - spans[chosen[:-1], 1] > SOUND_GAP_S) + 1)
    made = []
    for run in runs:
        inside = slice(run[0], run[-1] + 1)
        peak = float(middle[inside][level[inside].argmax()])
        start, end = float(spans[run[0], 0]), float(spans[run[-1], 1])
        label = f"{format_range(start, end)} {WORDS['audio']}"
        made.append(Moment("audio", start, end, peak, None, None, float(weights[inside].sum()), label))
    return made


def _of_picture(tokens: MediaTokens, evidence: np.ndarray) -> list[Moment]:
    places = np.flatnonzero((tokens.modality == Modality.VIDEO) & (evidence > 0))
    if not len(places):
        return []
    frame = tokens.cells[places, 0].astype(np.int64)
    profile = np.bincount(frame, evidence[places])
    chosen = np.flatnonzero(profile >= STANDS_OUT * profile.max())
    made = []
    for run in np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1):
        inside = places[(frame >= run[0]) & (frame <= run[-1])]
        weights = evidence[inside]
        start, end = float(tokens.spans_s[inside, 0].min()), float(tokens.spans_s[inside, 1].max())
        peak = float(tokens.spans_s[inside[weights.argmax()]].mean())
        where, box = _place(tokens, inside, weights)
        when = format_time(round(peak, 1)) if len(run) == 1 else format_range(start, end)
        if end <= start:  # a still picture has no time
            when = ""
        label = f"{when} {WORDS['video']}".strip() + (f", {where}" if where else "")
        made.append(Moment("video", start, end, peak, where, box, float(weights.sum()), label))
    return made


def _place(
    tokens: MediaTokens, places: np.ndarray, weights: np.ndarray
) -> tuple[str | None, tuple[int, int, int, int] | None]:
    """Where in the picture the evidence of these tokens lies, in words and as a box; None, None if all over it."""
    rows, columns = tokens.grid
    cells = tokens.cells[places].astype(np.int64)
    grid = np.bincount(cells[:, 1] * columns + cells[:, 2], weights, rows * columns)
    chosen = np.flatnonzero(grid >= STANDS_OUT * grid.max())
    row, column = chosen // columns, chosen % columns
    if (np.ptp(row) + 1) * (np.ptp(column) + 1) > rows * columns / 2:
        return None, None
    there = np.isin(cells[:, 1] * columns + cells[:, 2], chosen)
    boxes = tokens.boxes[places[there]]
    box = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    x = float((grid[chosen] * (column + 0.5)).sum() / grid[chosen].sum() / columns)
    y = float((grid[chosen] * (row + 0.5)).sum() / grid[chosen].sum() / rows)
    return place_words(x, y), box


def place_words(x: float, y: float) -> str:
    """Shares of width and height -> "upper left", "top", "left", "middle", …"""
    across = "left" if x < 0.36 else "right" if x > 0.64 else ""
    down = "upper" if y < 0.36 else "lower" if y > 0.64 else ""
    if across and down:
        return f"{down} {across}"
    return across or {"upper": "top", "lower": "bottom"}.get(down, "middle")
