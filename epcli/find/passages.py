"""Observations as they are searched: spoken words as lines of speech, sights and sounds merged over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from epcli.observe.phrases import LINE_PAUSE_S, ends_sentence, join_words
from epcli.records import Observation
from epcli.text import well_formed

SAID, HEARD, SEEN, READ = "said", "heard", "seen", "read"
HOWS = (SAID, HEARD, SEEN, READ)

_HOW = {"word": SAID, "sound": HEARD, "object": SEEN, "scene": SEEN, "text": READ}  # the other kinds have no name
LONGEST_LINE_S = 10.0
FEWEST_WORDS = 4  # a shorter sentence shares a line with the next
LEAST_SURE = 0.05  # confidence
SAME_S = 3.0  # a sight or sound that is back within this time has not been away


@dataclass(frozen=True)
class Line:
    """A stretch of speech, or a text on screen."""

    how: str  # SAID or READ
    text: str
    start_s: float
    end_s: float
    confidence: float  # 0 to 1
    place: str = ""  # of a text: left, right, top left …


@dataclass(frozen=True)
class Sighting:
    """A thing, scene or sound while it lasts."""

    how: str  # HEARD or SEEN
    name: str
    start_s: float
    end_s: float
    confidence: float
    place: str = ""
    count: int = 1  # most at a time


@dataclass(frozen=True)
class Findings:
    """All that is searched of one file, in order of time."""

    lines: tuple[Line, ...]
    sightings: tuple[Sighting, ...]


def findings(observations: Iterable[Observation]) -> Findings:
    """Observations, in any order -> what is searched."""
    words, texts, names = [], [], []
    for each in sorted(observations, key=lambda observation: (observation.start_s, observation.end_s)):
        how, text = _HOW.get(each.kind), " ".join(well_formed(each.text).replace("\0", "").split())
        if how is None or not text or each.confidence < LEAST_SURE:
            continue
        clean = replace(  # plain numbers, which SQLite takes
            each,
            text=text,
            start_s=float(each.start_s),
            end_s=float(each.end_s),
            confidence=float(each.confidence),
            count=max(1, int(each.count)),
        )
        if how == SAID:
            words.append(clean)
        elif how == READ:
            texts.append(_line(clean))
        else:
            place = position(each.box)
            names.append(Sighting(how, text, clean.start_s, clean.end_s, clean.confidence, place, clean.count))
    lines = sorted([*_speech(words), *_merged_texts(texts)], key=lambda line: (line.start_s, line.end_s))
    return Findings(tuple(lines), tuple(_merged(names)))


def _line(text: Observation) -> Line:
    return Line(READ, text.text, text.start_s, text.end_s, text.confidence, position(text.box))


def _speech(words: Iterable[Observation]) -> Iterator[Line]:
    """Words -> lines: a sentence or two, at most LONGEST_LINE_S, and no long pause inside."""
    line: list[Observation] = []
    for word in words:
        if line:
            ended = ends_sentence(line[-1].text) and len(line) >= FEWEST_WORDS
            too_long = word.end_s - line[0].start_s > LONGEST_LINE_S
            if ended or too_long or word.start_s - line[-1].end_s > LINE_PAUSE_S:
                yield _joined(line)
                line = []
        line.append(word)
    if line:
        yield _joined(line)


def _joined(words: list[Observation]) -> Line:
    confidence = sum(word.confidence for word in words) / len(words)
    end_s = max(word.end_s for word in words)
    return Line(SAID, join_words(word.text for word in words), words[0].start_s, end_s, confidence)


def _merged_texts(texts: Iterable[Line]) -> list[Line]:
    """The same text again a moment later is one text that stayed."""
    merged: list[Line] = []
    last: dict[str, int] = {}
    for text in texts:
        key = text.text.casefold()
        place = last.get(key)
        if place is not None and text.start_s - merged[place].end_s <= SAME_S:
            before = merged[place]
            best = max(before, text, key=lambda line: line.confidence)
            merged[place] = replace(best, start_s=before.start_s, end_s=max(before.end_s, text.end_s))
        else:
            last[key] = len(merged)
            merged.append(text)
    return merged


def _merged(sightings: Iterable[Sighting]) -> list[Sighting]:
    merged: list[Sighting] = []
    last: dict[tuple[str, str], int] = {}
    for each in sightings:
        key = (each.how, each.name)
        place = last.get(key)
        if place is not None and each.start_s - merged[place].end_s <= SAME_S:
            before = merged[place]
            merged[place] = replace(
                before,
                end_s=max(before.end_s, each.end_s),
                confidence=max(before.confidence, each.confidence),
                place=before.place if before.place == each.place else "",
                count=max(before.count, each.count),
            )
        else:
            last[key] = len(merged)
            merged.append(each)
    return merged


def position(box: tuple[float, float, float, float] | None) -> str:
    """Where a box lies: "left", "top right"; "" without one, in the middle, or where it covers most of the picture."""
    if box is None:
        return ""
    left, top, right, bottom = box
    sideways = _third((left + right) / 2, "left", "right") if right - left < 0.6 else ""
    upright = _third((top + bottom) / 2, "top", "bottom") if bottom - top < 0.4 else ""
    return f"{upright} {sideways}".strip()


def _third(centre: float, low: str, high: str) -> str:
    return low if centre < 0.4 else high if centre > 0.6 else ""
