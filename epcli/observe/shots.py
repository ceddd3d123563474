"""What can be told of sampled frames without a network: where the picture changes, and which frames show nothing.

Two frames are compared by their colours (a histogram) and not by place, so that a moving camera is no cut. Of 190
pairs of different photographs 187 differ by .41 or more, views that are half a picture apart by .37 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

CUT = 0.4  # share of two frames' colours that differ, from which they are two shots
MIXED = 0.25  # of the difference of its neighbours, that the mixture of them may leave unexplained in a dissolve
SAME = 2.0  # frames look alike if nowhere, over 32 x 32 pixels, they differ by more on the mean, of 255
CELL = 32  # pixels
THUMB = 64  # pixels a side of what is compared
BLACK, LIT = 20, 48  # of 255: a black frame's mean is below the one, and nearly none of its pixels above the other
PLAIN = 10  # of 255: the range of a frame that shows one colour
DARK, LETTERS = (
    64,
    200,
)  # of 255: nine tenths of a very dark frame are below the one, and no white title above the other
SHARP = 6.0  # of 255: how strongly edges stand out in the sharpest part of a picture that is not blurred


@dataclass(frozen=True)
class Flags:
    """What keeps a frame from being recognised."""

    black: bool = False
    blank: bool = False  # one colour all over
    dark: bool = False
    blurred: bool = False

    @property
    def why(self) -> str:
        """The first of "black", "blank", "dark" and "blurred" that holds, or ""."""
        return next((name for name in ("black", "blank", "dark", "blurred") if getattr(self, name)), "")


@dataclass(frozen=True)
class Shots:
    """How N frames belong together."""

    stretches: tuple[range, ...]  # frames between two changes of the picture, in order, all N of them
    between: frozenset[int]  # frames in the middle of a dissolve, which show two pictures at once
    looks_like: tuple[int, ...]  # (N,) the earlier frame that each is alike, or itself
    flags: tuple[Flags, ...]  # (N,)


def find_shots(frames: Sequence[np.ndarray]) -> Shots:
    """(H, W, 3) uint8 RGB frames, all of one size, in order of time -> how they belong together."""
    thumbs = [cv2.resize(frame, (THUMB, THUMB), interpolation=cv2.INTER_AREA) for frame in frames]
    between = _between(thumbs)
    starts = [
        k
        for k in range(len(thumbs))
        if not k or (not {k - 1, k} & set(between) and colour_difference(thumbs[k - 1], thumbs[k]) >= CUT)
    ]
    for first, last in _runs(between):
        before, after = thumbs[first - 1], thumbs[last + 1]
        nearer = (k for k in range(first, last + 1) if _mixture(before, thumbs[k], after)[0] >= 0.5)
        starts.append(next(nearer, last + 1))
    starts.sort()
    ends = [*starts[1:], len(thumbs)]
    stretches = tuple(range(start, end) for start, end in zip(starts, ends, strict=True) if end > start)
    return Shots(stretches, frozenset(between), _look_alike(frames), tuple(flags_of(frame) for frame in frames))


def colour_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The share of the colours of two RGB pictures that differ, 0 to 1; as they are, or at the same brightness."""
    bright, dim = (a, b) if a.mean() >= b.mean() else (b, a)
    gain = max((float(dim.mean()) + 1) / (float(bright.mean()) + 1), 0.5)  # a light that goes out is a change
    dimmed = np.round(bright * gain).astype(np.uint8)
    return min(1 - float(np.minimum(_colours(picture), _colours(dim)).sum()) for picture in (bright, dimmed))


def flags_of(frame: np.ndarray) -> Flags:
    """(H, W, 3) uint8 RGB -> what keeps it from being recognised."""
    height, width = frame.shape[:2]
    factor = 416 / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    light = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    if light.mean() < BLACK and (light > LIT).mean() < 0.001:
        return Flags(black=True)
    low, high = np.percentile(small.reshape(-1, 3), (0.2, 99.8), axis=0)
    if (high - low).max() < PLAIN:
        return Flags(blank=True)
    dark = np.percentile(light, 90) < DARK and (light > LETTERS).mean() < 0.005
    return Flags(dark=bool(dark), blurred=_sharpness(light) < SHARP)


def _sharpness(light: np.ndarray) -> float:
    """How strongly edges stand out in the sharpest of 5 x 5 parts: a sharp thing before a blurred garden is sharp."""
    edges = np.abs(cv2.Laplacian(light, cv2.CV_32F))
    parts = [part for rows in np.array_split(edges, 5) for part in np.array_split(rows, 5, axis=1)]
    return max(float(np.percentile(part, 95)) for part in parts)


def _colours(picture: np.ndarray) -> np.ndarray:
    """The histogram over 8 x 8 x 8 colours of the Lab space, summing to 1."""
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    histogram: np.ndarray = cv2.calcHist([lab], [0, 1, 2], None, [8] * 3, [0, 256] * 3)
    return histogram / histogram.sum()


def _mixture(before: np.ndarray, middle: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """The weight of `after` in the mixture that is nearest to `middle`, and what that leaves unexplained (shares)."""
    change = (after.astype(np.float32) - before).ravel()
    moved = (middle.astype(np.float32) - before).ravel()
    weight = float(moved @ change / max(float(change @ change), 1e-6))
    rest = float(np.linalg.norm(moved - weight * change) / max(float(np.linalg.norm(change)), 1e-6))
    return weight, rest


def _between(thumbs: Sequence[np.ndarray]) -> list[int]:
    """The frames in dissolves that last for one or two frames, ascending."""
    found: set[int] = set()
    for length in (1, 2):
        for k in range(1, len(thumbs) - length):
            middle = range(k, k + length)
            if all(_is_mixture(thumbs[k - 1], thumbs[j], thumbs[k + length]) for j in middle):
                found.update(middle)
    return sorted(found)


def _is_mixture(before: np.ndarray, middle: np.ndarray, after: np.ndarray) -> bool:
    if colour_difference(before, after) < CUT:
        return False
    weight, rest = _mixture(before, middle, after)
    return 0.08 < weight < 0.92 and rest < MIXED


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers -> the first and last of those that follow each other."""
    runs: list[tuple[int, int]] = []
    for k in numbers:
        if runs and k == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], k
        else:
            runs.append((k, k))
    return runs


def change(a: np.ndarray, b: np.ndarray) -> float:
    """How much two RGB frames of one size differ where they differ most, the mean over CELL x CELL pixels, of 255."""
    return float(np.abs(_cells(a) - _cells(b)).mean(-1).max())


def _cells(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    size = max(1, width // CELL), max(1, height // CELL)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _look_alike(frames: Sequence[np.ndarray]) -> tuple[int, ...]:
    alike: list[int] = []
    last = np.zeros(0, np.float32)
    for k, cells in enumerate(map(_cells, frames)):
        if k and np.abs(cells - last).mean(-1).max() <= SAME:
            alike.append(alike[-1])
        else:
            alike.append(k)
            last = cells
    return tuple(alike)
