"""Media tokens as people think of them, and the stretches of a clip that they form: times, places, words. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from textwrap import shorten

import numpy as np

from epcli.records import ClipSummary, MediaTokens, Modality, Moment, TokenStream
from epcli.text import format_range, format_time

STANDS_OUT = 0.3  # share of its modality's peak that a sound's, a frame's or a cell's evidence needs
MOST = 5  # moments told
LEAST = 0.05  # share of all evidence that a moment needs to be told
SOUND_GAP_S = 0.4  # sound closer than this is one moment
SMOOTH_S = 0.36  # sound's evidence is meant over this: single tokens stand out by chance
REACH = 2  # frames later at most in which the same thing may be seen again: a part may miss it once
FAR = 0.5  # of the picture's longer side: what moves farther from frame to frame is another thing
LONGEST_QUOTE = 60  # letters of what was said
QUOTED = "'"  # begins and ends the label of a piece of speech
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
        grids = int(cells[:, 0].max()) + 1 if stream.boxes is None else len(times)
        spans[picture] = frame_spans(times, clip.duration_s, grids)[cells[picture, 0]]
        size = np.array([clip.info.width, clip.info.height])
        if stream.boxes is None:
            low, steps = cells[picture, 2:0:-1], np.array(stream.grid[::-1])  # column, row
            boxes[picture] = np.concatenate([low * size // steps, (low + 1) * size // steps], 1)
        else:
            low, high = np.split(stream.boxes.cpu().numpy()[places][picture] * np.tile(size, 2), 2, 1)
            low = low.round().clip(0, size - 1)
            boxes[picture] = np.concatenate([low, high.round().clip(low + 1, size)], 1)
    return MediaTokens(
        modality,
        (spans + start).clip(start, max(start, end)),
        cells,
        boxes,
        stream.grid,
        (clip.info.width, clip.info.height),
        stream.boxes is not None,
        None if stream.labels is None else tuple(itertools.compress(stream.labels, places.tolist())),
    )


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
    of_picture = _of_observations if tokens.observed else _of_picture
    found = [*_of_sound(tokens, evidence), *of_picture(tokens, evidence)]
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
        name = _heard(tokens, places[inside], evidence)
        label = f"{name}, " * bool(name) + f"{format_range(start, end)} {WORDS['audio']}"
        made.append(Moment("audio", start, end, peak, None, None, float(weights[inside].sum()), label, name or None))
    return made


def _heard(tokens: MediaTokens, places: np.ndarray, evidence: np.ndarray) -> str:
    """The name with most of the evidence of these sound tokens; for speech the words; "" where none has a name."""
    if tokens.labels is None:
        return ""
    weights: dict[str, float] = {}
    for place in places.tolist():
        name = tokens.labels[place]
        name = QUOTED if name.startswith(QUOTED) else name
        weights[name] = weights.get(name, 0.0) + float(evidence[place])
    weights.pop("", None)
    best = max(weights, key=lambda name: weights[name], default="")
    return spoken(tokens, range(int(places[0]), int(places[-1]) + 1)) if best == QUOTED else best


def spoken(tokens: MediaTokens, places: Iterable[int]) -> str:
    """The words of which these sound tokens carry pieces, in quotes: "'the train leaves'"; "" for none."""
    labels = [tokens.labels[place] for place in places if tokens.modality[place] == Modality.AUDIO and tokens.labels]
    words = "".join(label[1:-1] for label in labels if label.startswith(QUOTED)).strip()
    return QUOTED + shorten(words, LONGEST_QUOTE, placeholder=" …") + QUOTED if words else ""


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


def _of_observations(tokens: MediaTokens, evidence: np.ndarray) -> list[Moment]:
    """A moment for each thing seen: from the first to the last frame in which its tokens stand out.

    Things of one name that are told by the same words are one moment, with the box of the strongest.
    """
    made = []
    for thing in things(tokens):
        frame, weights = tokens.cells[thing, 0].astype(np.int64), evidence[thing]
        profile = np.bincount(frame, weights)
        if not profile.any():
            continue
        chosen = np.flatnonzero(profile >= STANDS_OUT * profile.max())
        spans = tokens.spans_s[thing[(frame >= chosen[0]) & (frame <= chosen[-1])]]
        start, end = float(spans[:, 0].min()), float(spans[:, 1].max())
        strongest = thing[weights.argmax()]
        where, box = _box_words(tokens, strongest)
        peak = float(tokens.spans_s[strongest].mean())
        when = format_time(round(peak, 1)) if len(chosen) == 1 else format_range(start, end)
        name = tokens.labels[strongest] if tokens.labels else ""
        told = [name or WORDS["video"], where, when if end > start else None]  # a still picture has no time
        label = ", ".join(part for part in told if part)
        made.append(Moment("video", start, end, peak, where, box, float(weights.sum()), label, name or None))
    made.sort(key=lambda moment: -moment.share)
    alike = {label: [each for each in made if each.label == label] for label in dict.fromkeys(m.label for m in made)}
    return [replace(same[0], share=sum(each.share for each in same)) for same in alike.values()]


def things(tokens: MediaTokens) -> list[np.ndarray]:
    """The picture tokens of each thing observed, ascending places: the same name, frame after frame, at a near place.

    Tokens of one name and box in a frame are pieces of one thing. In the next frames it is the nearest of its name.
    """
    sights: dict[tuple[str, int], dict[tuple[int, ...], list[int]]] = {}
    for place in np.flatnonzero(tokens.modality == Modality.VIDEO).tolist():
        name, frame = tokens.labels[place] if tokens.labels else "", int(tokens.cells[place, 0])
        sights.setdefault((name, frame), {}).setdefault(tuple(tokens.boxes[place].tolist()), []).append(place)
    found: list[_Thing] = []
    of_name: dict[str, list[_Thing]] = {}
    for (name, frame), boxes in sorted(sights.items(), key=lambda item: item[0][1]):
        known = [thing for thing in of_name.get(name, []) if frame - thing.frame <= REACH]
        middles = {box: (np.array(box[:2]) + box[2:]) / 2 for box in boxes}
        pairs = [
            (float(np.abs(thing.middle - middles[box]).max()), i, box) for i, thing in enumerate(known) for box in boxes
        ]
        free, taken = dict(boxes), set()
        for distance, i, box in sorted(pairs):
            if i not in taken and box in free and distance <= FAR * max(tokens.size):
                taken.add(i)
                known[i].extend(frame, middles[box], free.pop(box))
        new = [_Thing(frame, middles[box], places) for box, places in free.items()]
        of_name[name] = known + new
        found += new
    return [np.array(sorted(thing.places)) for thing in found]


@dataclass
class _Thing:
    """Something seen in one frame or several."""

    frame: int  # where it was seen last
    middle: np.ndarray  # (2,) of its box there, pixels
    places: list[int]  # its tokens

    def extend(self, frame: int, middle: np.ndarray, places: list[int]) -> None:
        """It is seen again."""
        self.frame, self.middle = frame, middle
        self.places = self.places + places


def _box_words(tokens: MediaTokens, place: int) -> tuple[str | None, tuple[int, int, int, int] | None]:
    """Where an observation is, in words and as its box; None, None if it is all over the picture."""
    width, height = tokens.size
    left, top, right, bottom = tokens.boxes[place].tolist()
    if (right - left) * (bottom - top) > width * height / 2:
        return None, None
    return place_words((left + right) / 2 / width, (top + bottom) / 2 / height), (left, top, right, bottom)


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
