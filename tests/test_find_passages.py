"""Observations as they are searched."""

from __future__ import annotations

import numpy as np
import pytest

from epcli.find.passages import Line, Sighting, findings, position
from epcli.records import Observation
from tests.find_samples import sign, sound, thing, words


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        (words("It is late. We go home now. See you."), ["It is late. We go home now.", "See you."]),
        (words("one two") + words("three four", 5.0), ["one two", "three four"]),  # a pause
        (words(" ".join(["word"] * 60)), [" ".join(["word"] * 25)] * 2 + [" ".join(["word"] * 10)]),  # ten seconds
        (words("b a")[::-1], ["b a"]),  # in the order of time, whatever order they come in
        ([], []),
    ],
)
def test_words_become_lines(spoken: list[Observation], expected: list[str]) -> None:
    assert [line.text for line in findings(spoken).lines] == expected


def test_a_line_lasts_from_its_first_word_to_its_last() -> None:
    (line,) = findings(words("mind the gap", 10.0)).lines
    assert (line.how, line.start_s, line.end_s) == ("said", 10.0, pytest.approx(11.15))
    assert line.confidence == pytest.approx(0.9)


def test_what_is_back_at_once_has_not_been_away() -> None:
    seen = findings([thing("dog", 0, 2), thing("dog", 4, 6, count=3), thing("dog", 20, 21), sound("dog", 5, 6)])
    assert [(each.how, each.start_s, each.end_s, each.count) for each in seen.sightings] == [
        ("seen", 0, 6, 3),
        ("seen", 20, 21, 1),
        ("heard", 5, 6, 1),
    ] or [(each.how, each.start_s, each.end_s, each.count) for each in seen.sightings] == [
        ("seen", 0, 6, 3),
        ("heard", 5, 6, 1),
        ("seen", 20, 21, 1),
    ]


def test_a_sign_that_stays_is_read_once() -> None:
    seen = findings([sign("EXIT", 0, 1), sign("Exit", 2, 3), sign("WAY OUT", 2, 3), sign("EXIT", 30, 31)])
    assert [(line.text, line.start_s, line.end_s) for line in seen.lines] == [
        ("EXIT", 0, 3),
        ("WAY OUT", 2, 3),
        ("EXIT", 30, 31),
    ]


def test_what_has_no_name_is_not_searched() -> None:
    nothing = [Observation(kind, "", 0.0, 1.0, 1.0, "level") for kind in ("cut", "black", "silent", "unsure")]
    assert findings([*nothing, Observation("word", " \0 ", 0, 1, 1, "whisper")]) == findings([])


def test_numbers_are_plain() -> None:
    seen = findings([Observation("sound", "dog", np.float64(1), np.float32(2), np.float32(0.5), "yamnet")]).sightings[0]
    assert {type(seen.start_s), type(seen.end_s), type(seen.confidence)} == {float}


def test_text_of_a_file_can_be_stored() -> None:
    (line,) = findings([sign("a\0b\udc80\nc", 0, 1)]).lines
    assert line == Line("read", "ab\ufffd c", 0, 1, 0.95, "top")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (None, ""),
        ((0.0, 0.0, 1.0, 1.0), ""),
        ((0.0, 0.2, 0.3, 0.9), "left"),
        ((0.7, 0.0, 0.9, 0.2), "top right"),
        ((0.4, 0.4, 0.6, 0.6), ""),
    ],
)
def test_a_box_has_a_place(box: tuple[float, float, float, float] | None, expected: str) -> None:
    assert position(box) == expected
    (seen,) = findings([thing("dog", 0, 1, box=box)]).sightings
    assert seen == Sighting("seen", "dog", 0, 1, 0.8, expected)
