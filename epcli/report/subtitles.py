"""Spoken words as subtitles, by the usual rules, in the formats SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from epcli.observe.phrases import ends_sentence, join_words
from epcli.records import Observation
from epcli.text import printable

COLUMNS, ROWS = 42, 2  # of a subtitle: letters a line, lines
SHORTEST_S, LONGEST_S = 1.0, 7.0
GAP_S = 0.08  # between two subtitles: two frames
COLUMNS_PER_S = 17.0  # reading speed: a subtitle stays longer if there is time
PAUSE_S = 1.5  # a pause over which no subtitle goes on
FEW_COLUMNS = 16  # a subtitle with less looks lost


class Cue(NamedTuple):
    """One subtitle."""

    start_s: float
    end_s: float
    rows: tuple[str, ...]  # one or two


def cues(words: Iterable[Observation]) -> Iterator[Cue]:
    """Words in order -> subtitles, those up to a pause at a time."""
    waiting: Cue | None = None
    for stretch in _stretches(words):
        for first, last in _cuts(stretch):
            cue = _cue(stretch[first:last])
            if waiting is not None:
                yield _timed(waiting, cue.start_s)
            waiting = cue
    if waiting is not None:
        yield _timed(waiting, float("inf"))


def to_srt(made: Iterable[Cue]) -> Iterator[str]:
    """SubRip, a subtitle at a time. What players take for markup, < > { }, is written as other brackets."""
    plain = str.maketrans("<>{}", "‹›()")
    for number, cue in enumerate(made, 1):
        rows = "\n".join(cue.rows).translate(plain)
        yield f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{rows}\n\n"


def to_vtt(made: Iterable[Cue]) -> Iterator[str]:
    """WebVTT, the header first, then a subtitle at a time."""
    yield "WEBVTT\n\n"
    for cue in made:
        rows = html.escape("\n".join(cue.rows), quote=False)
        yield f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{rows}\n\n"


def columns(text: str) -> int:
    """Width of text: letters, those of East Asia twice."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def _clock(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{milliseconds:03d}"


def _stretches(words: Iterable[Observation]) -> Iterator[list[Observation]]:
    """Words up to a pause. None is longer than some minutes, so that memory is bounded."""
    stretch: list[Observation] = []
    for word in words:
        if stretch and (word.start_s - stretch[-1].end_s >= PAUSE_S or len(stretch) >= 500):
            yield stretch
            stretch = []
        stretch.append(word)
    if stretch:
        yield stretch


def _cuts(words: Sequence[Observation]) -> list[tuple[int, int]]:
    """The words of each subtitle, first and last + 1: the cheapest way to cut them, by dynamic programming."""
    best = [0.0] + [float("inf")] * len(words)
    came_from = [0] * (len(words) + 1)
    for last in range(1, len(words) + 1):
        for first in range(last - 1, -1, -1):
            price = _price(words[first:last], words[last] if last < len(words) else None)
            if price == float("inf") and last - first > 1:
                break  # too long, and longer ones are too
            if best[first] + min(price, 1e6) < best[last]:
                best[last], came_from[last] = best[first] + min(price, 1e6), first
    ends = [len(words)]
    while ends[-1]:
        ends.append(came_from[ends[-1]])
    return list(pairwise(reversed(ends)))


def _price(words: Sequence[Observation], following: Observation | None) -> float:
    """How bad a subtitle of these words is; infinite if it is too long."""
    text = join_words(word.text for word in words)
    length, spoken = columns(text), words[-1].end_s - words[0].start_s
    if spoken > LONGEST_S or length > ROWS * COLUMNS or len(_rows(words)) > ROWS:
        return float("inf")
    if ends_sentence(words[-1].text):
        price = 0.0
    elif words[-1].text.endswith((",", ";", ":", "、", "，")):
        price = 1.5
    else:
        price = 4.0
    if following is not None:
        price -= 3 * min(1.0, max(0.0, following.start_s - words[-1].end_s))  # a pause is a good place
        shown = max(spoken, min(following.start_s - GAP_S - words[0].start_s, length / COLUMNS_PER_S))
        price += 4 * max(0.0, length / max(shown, 0.1) / COLUMNS_PER_S - 1)  # too fast to read
    price += 3 * (length < FEW_COLUMNS) + 2 * (spoken < SHORTEST_S)
    sentences = sum(ends_sentence(word.text) for word in words[:-1])
    return price + 1.5 * sentences + 2.0


def _rows(words: Sequence[Observation]) -> tuple[str, ...]:
    """The text on one row if it fits, else on two that are about equally long, cut rather after a comma."""
    texts = [printable(word.text, " ").strip() for word in words]
    whole = join_words(texts)
    if columns(whole) <= COLUMNS:
        return (whole,)
    halves = [(join_words(texts[:cut]), join_words(texts[cut:])) for cut in range(1, len(texts))]
    fitting = [half for half in halves if max(map(columns, half)) <= COLUMNS]
    if not fitting:
        return _broken(whole)
    return min(
        fitting, key=lambda half: abs(columns(half[0]) - columns(half[1])) - 12 * half[0].endswith((",", ".", "?"))
    )


def _broken(text: str) -> tuple[str, ...]:
    """Text in pieces of COLUMNS: a word without end."""
    rows = [""]
    for letter in text:
        if columns(rows[-1] + letter) > COLUMNS:
            rows.append("")
        rows[-1] += letter
    return tuple(rows)


def _cue(words: Sequence[Observation]) -> Cue:
    return Cue(words[0].start_s, max(word.end_s for word in words), _rows(words))


def _timed(cue: Cue, next_s: float) -> Cue:
    """A subtitle that stays as long as it takes to read, if the next one does not begin before."""
    reading = sum(map(columns, cue.rows)) / COLUMNS_PER_S
    wanted = max(cue.end_s, cue.start_s + max(SHORTEST_S, min(reading, LONGEST_S)))
    return cue._replace(end_s=max(cue.start_s + 0.1, min(wanted, next_s - GAP_S)))
