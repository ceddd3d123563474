"""Spoken words joined: to text, to lines of a transcript, and to the stretches in which somebody speaks."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from epcli.records import Observation

LINE_PAUSE_S = 1.2  # a pause that begins a new line of a transcript
LINE_LETTERS = 160  # a line with more ends with its sentence
LONGEST_LINE_LETTERS = 400
SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！", "॥", "।", "؟")
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "MYANMAR", "IDEOGRAPHIC", "FULLWIDTH")


class Line(NamedTuple):
    """Words that belong together."""

    start_s: float  # seconds of the file
    end_s: float
    text: str


def join_words(words: Iterable[str]) -> str:
    """Words as text, with spaces where their script has them."""
    text = ""
    for word in words:
        text += f" {word}" if text and not (_spaceless(text[-1]) and _spaceless(word[:1])) else word
    return text


def _spaceless(letter: str) -> bool:
    return not letter.isascii() and unicodedata.name(letter, "").startswith(_SPACELESS)


def ends_sentence(word: str) -> bool:
    """Whether a sentence ends with the word; quotation marks and brackets may follow."""
    return word.rstrip("\"'”’»)]」』").endswith(SENTENCE_ENDS)


def lines(words: Iterable[Observation]) -> Iterator[Line]:
    """Words in order -> readable lines, each as soon as it is complete: some sentences, or what lies between pauses."""
    line: list[Observation] = []
    letters = 0
    for word in words:
        if line and (
            word.start_s - line[-1].end_s >= LINE_PAUSE_S
            or (letters >= LINE_LETTERS and ends_sentence(line[-1].text))
            or letters >= LONGEST_LINE_LETTERS
        ):
            yield _line(line)
            line, letters = [], 0
        line.append(word)
        letters += len(word.text) + 1
    if line:
        yield _line(line)


def _line(words: Sequence[Observation]) -> Line:
    return Line(words[0].start_s, max(word.end_s for word in words), join_words(word.text for word in words))
