"""Chapters of a file: cut where words, scene and sound change, each with what is characteristic of it.

The file is cut into bins of some seconds. Each bin has a vector: what its words mean, which sounds are heard, which
things are seen. The cuts are those that leave the least variance inside the chapters, with a penalty for each (kernel
temporal segmentation; Potapov et al., ECCV 2014). They are then moved to the nearest pause or change of the picture.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise

import numpy as np

from epcli.observe.loudness import joined
from epcli.observe.phrases import Line, ends_sentence, lines
from epcli.records import Observation
from epcli.text import singular

Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> (N, D) float32 of length 1: close for texts of one meaning

FINEST_S, MOST_BINS = 4.0, 400
AROUND_S = 15.0  # words so near to a bin tell what it is about
WORDS, SOUNDS, PICTURE = 1.0, 0.35, 0.5  # weights of the three
PENALTY = 2.5  # variance that a further chapter must explain
SHORTEST_S = 20.0  # of a chapter, or a fortieth of the file if that is longer
MOST_CHAPTERS = 40
MOVED_S = 8.0  # how far a cut is moved, or one bin and a half if that is longer
KEY_WORDS, NAMES = 5, 5  # of a chapter
TITLE_WORDS = 3
PRESENT = 0.1  # share of a chapter in which a thing or sound must be there to be named, or PRESENT_S
PRESENT_S = 5.0
SHORT_LINE = 20  # letters: a line with fewer tells nothing
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True)
class Chapter:
    """A stretch of a file in which one thing goes on."""

    start_s: float  # seconds of the file
    end_s: float
    key_words: tuple[str, ...]  # that are said in it more than elsewhere, the most telling first
    said: str | None  # the line that stands for all that is said in it
    heard: tuple[str, ...]  # sounds, the longest first
    seen: tuple[str, ...]  # things and scenes, the longest first
    read: tuple[str, ...]  # text on screen, in order of time

    @property
    def title(self) -> str:
        """A few words."""
        said = ", ".join(self.key_words[:TITLE_WORDS])
        return said or ", ".join([*self.seen[:2], *self.heard[:1]]) or ", ".join(self.read[:1]) or "nothing recognised"


def chapters(observations: Iterable[Observation], range_s: tuple[float, float], embed: Embed | None) -> list[Chapter]:
    """All observations of a file, in any order -> its chapters, which cover `range_s`.

    `embed` may be None if nothing is said.
    """
    found = sorted(observations, key=lambda each: (each.start_s, each.end_s))
    said = list(_sentences(each for each in found if each.kind == "word"))
    meanings = embed([line.text for line in said]) if said and embed is not None else np.zeros((0, 1), np.float32)
    edges = _bins(range_s)
    vectors = _vectors(found, said, meanings, edges)
    shortest = max(SHORTEST_S, (range_s[1] - range_s[0]) / MOST_CHAPTERS)
    cuts = segments(vectors, PENALTY, math.ceil(shortest / max(edges[1] - edges[0], 1e-6)))
    times = [_moved(edges[cut], found, max(MOVED_S, 1.5 * (edges[1] - edges[0]))) for cut in cuts]
    borders = [range_s[0], *times, range_s[1]]
    parts = list(pairwise(borders))
    words = _key_words(found, parts)
    return [_chapter(part, keys, found, said, meanings) for part, keys in zip(parts, words, strict=True)]


def _bins(range_s: tuple[float, float]) -> np.ndarray:
    """(B + 1,) edges of the bins, in seconds."""
    start, end = range_s
    count = max(1, min(MOST_BINS, int((end - start) / FINEST_S)))
    return np.linspace(start, max(end, start), count + 1)


def _sentences(words: Iterable[Observation]) -> Iterable[Line]:
    """Words -> lines of one sentence each, or what lies between pauses."""
    sentence: list[Observation] = []
    for word in words:
        if sentence and ends_sentence(sentence[-1].text):
            yield from lines(sentence)
            sentence = []
        sentence.append(word)
    yield from lines(sentence)


def _vectors(found: Sequence[Observation], said: Sequence[Line], meanings: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(B, D): what is said, heard and seen in each bin."""
    words = np.zeros((len(edges) - 1, meanings.shape[1]))
    for line, meaning in zip(said, meanings, strict=True):
        inside = (edges[1:] > line.start_s - AROUND_S) & (edges[:-1] < line.end_s + AROUND_S)
        words[inside] += meaning * min(1.0, len(line.text) / 40)
    sounds = _shares([each for each in found if each.kind in ("sound", "silent")], edges)
    picture = _shares([each for each in found if each.kind in ("object", "scene", "text", "black")], edges)
    return np.concatenate([_unit(words) * WORDS, _unit(sounds) * SOUNDS, _unit(picture) * PICTURE], 1)


def _shares(found: Sequence[Observation], edges: np.ndarray) -> np.ndarray:
    """(B, names): the share of each bin in which each name is there, times how sure it is."""
    names = {key: i for i, key in enumerate(sorted({(each.kind, each.text) for each in found}))}
    shares = np.zeros((len(edges) - 1, len(names)))
    for each in found:
        inside = np.minimum(edges[1:], each.end_s) - np.maximum(edges[:-1], each.start_s)
        shares[:, names[each.kind, each.text]] += inside.clip(0) * each.confidence
    return shares / max(edges[1] - edges[0], 1e-6)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(B, D) vectors of length 1, or 0 where there is nothing."""
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return unit


def segments(vectors: np.ndarray, penalty: float, shortest: int) -> list[int]:
    """(B, D) -> where to cut, ascending: least variance inside the segments, plus `penalty` for each.

    No segment has fewer than `shortest` bins, unless there are fewer in all.
    """
    count = len(vectors)
    sums = np.concatenate([np.zeros((1, vectors.shape[1])), np.cumsum(vectors, 0)])
    squares = np.concatenate([[0.0], np.cumsum(np.square(vectors).sum(1))])
    best, came_from = np.full(count + 1, np.inf), np.zeros(count + 1, int)
    best[0] = 0.0
    for end in range(1, count + 1):
        starts = np.arange(0, max(end - shortest, 0) + 1) if end >= shortest or end < count else np.array([0])
        starts = starts[(starts == 0) | (starts >= shortest)]
        inside = sums[end] - sums[starts]
        spread = squares[end] - squares[starts] - np.square(inside).sum(1) / (end - starts)
        prices = best[starts] + spread + penalty
        came_from[end], best[end] = starts[prices.argmin()], prices.min()
    cuts = []
    at = count
    while came_from[at]:
        at = int(came_from[at])
        cuts.append(at)
    return cuts[::-1]


def _moved(cut_s: float, found: Sequence[Observation], most_s: float) -> float:
    """A cut, moved to a pause between words, to where the picture changes, or to both."""
    near = [each for each in found if each.start_s - most_s <= cut_s <= each.end_s + most_s]
    words = [each for each in near if each.kind == "word"]
    places = {
        (before.end_s + after.start_s) / 2: min(after.start_s - before.end_s, 3.0)
        for before, after in pairwise(words)
        if after.start_s > before.end_s
    }
    for each in near:
        if each.kind in ("cut", "silent", "black", "scene", "sound"):
            place = each.start_s if each.kind != "silent" else (each.start_s + each.end_s) / 2
            if not any(word.start_s < place < word.end_s for word in words):
                places[place] = max(places.get(place, 0.0), 0.0) + (1.5 if each.kind == "cut" else 0.7)
    inside = {place: worth for place, worth in places.items() if abs(place - cut_s) <= most_s}
    if not inside:
        return float(cut_s)
    return float(max(inside, key=lambda place: inside[place] - 1.5 * abs(place - cut_s) / most_s))


def _key_words(found: Sequence[Observation], parts: Sequence[tuple[float, float]]) -> list[tuple[str, ...]]:
    """The words that are said in each part more than in the others (term frequency, inverse document frequency)."""
    said: list[Counter[str]] = [Counter() for _ in parts]
    written: dict[str, Counter[str]] = defaultdict(Counter)  # a stem as it is written inside sentences
    begins = True
    for word in (each for each in found if each.kind == "word"):
        at = next((i for i, (start, end) in enumerate(parts) if start <= word.start_s < end), len(parts) - 1)
        for text in _WORD.findall(word.text):
            if len(text) > 2 and text.lower() not in _stop_words():
                stem = singular(text.lower())
                said[at][stem] += 1
                written[stem][text if text.isupper() or not begins else text.lower()] += 1 + (not begins)
        begins = ends_sentence(word.text)
    everywhere = Counter(stem for part in said for stem in part)
    keys = []
    for part in said:
        repeated = [stem for stem, count in part.items() if count > 1]
        worth = {
            stem: part[stem] * math.log(1 + len(parts) / everywhere[stem]) * min(1.0, len(stem) / 6)
            for stem in (repeated if len(repeated) >= TITLE_WORDS else part)
        }
        best = sorted(worth, key=lambda stem: -worth[stem])[:KEY_WORDS]
        keys.append(tuple(written[stem].most_common(1)[0][0] for stem in best))
    return keys


@cache
def _stop_words() -> frozenset[str]:
    """English words that tell nothing. In other languages, words that are said in all chapters count little."""
    return frozenset(files("epcli.observe").joinpath("data/stop_words.txt").read_text(encoding="utf-8").split())


def _chapter(
    part: tuple[float, float],
    key_words: tuple[str, ...],
    found: Sequence[Observation],
    said: Sequence[Line],
    meanings: np.ndarray,
) -> Chapter:
    start, end = part
    mine = [i for i, line in enumerate(said) if start <= (line.start_s + line.end_s) / 2 < end]
    telling = [i for i in mine if len(said[i].text) >= SHORT_LINE] or mine
    standing = None
    if telling:
        about = meanings[mine].mean(0)
        standing = said[max(telling, key=lambda i: float(meanings[i] @ about))].text
    heard = _longest([each for each in found if each.kind == "sound"], part)
    return Chapter(
        start,
        end,
        key_words,
        standing,
        tuple(name for name in heard if not (mine and name == "speech")),
        _longest([each for each in found if each.kind in ("object", "scene")], part),
        tuple(dict.fromkeys(e.text for e in found if e.kind == "text" and e.start_s < end and e.end_s > start))[:NAMES],
    )


def _longest(found: Sequence[Observation], part: tuple[float, float]) -> tuple[str, ...]:
    """The names that are there for long enough, the longest first."""
    start, end = part
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in found:
        if each.start_s < end and each.end_s > start:
            spans[each.text].append((max(each.start_s, start), min(each.end_s, end)))
    seconds = {name: sum(b - a for a, b in joined(those, 0.0)) for name, those in spans.items()}
    enough = min(PRESENT_S, PRESENT * (end - start))
    return tuple(sorted((name for name in seconds if seconds[name] >= enough), key=lambda name: -seconds[name])[:NAMES])
