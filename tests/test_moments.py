"""Evidence as people read it: when, where, and how it is said."""

from __future__ import annotations

import numpy as np
import pytest
from inspections import inspection, media_tokens, still

from epcli.records import Modality
from epcli.session.moments import frame_spans, moments, place_words


def evidence(tokens, which) -> np.ndarray:
    weights = which.astype(np.float32)
    return weights / weights.sum()


def at(tokens, modality, start, end):
    middle = tokens.spans_s.mean(1)
    return (tokens.modality == modality) & (middle > start) & (middle < end)


def test_a_stretch_of_sound_is_one_moment_with_its_times():
    tokens = media_tokens()
    found = moments(tokens, evidence(tokens, at(tokens, Modality.AUDIO, 5, 6)))
    assert [m.label for m in found] == ["0:05–0:06 sound"]
    assert found[0].share == pytest.approx(1)
    assert found[0].where is None


def test_sounds_far_apart_are_two_moments_the_stronger_first():
    tokens = media_tokens()
    weights = at(tokens, Modality.AUDIO, 1, 2) + 1.5 * at(tokens, Modality.AUDIO, 6, 7)
    assert [m.label for m in moments(tokens, evidence(tokens, weights))] == ["0:06–0:07 sound", "0:01–0:02 sound"]


def test_a_part_of_one_picture_is_told_by_its_time_and_place():
    tokens = media_tokens()
    where = at(tokens, Modality.VIDEO, 3, 4) & (tokens.cells[:, 1] >= 2) & (tokens.cells[:, 2] < 2)
    (moment,) = moments(tokens, evidence(tokens, where))
    assert moment.label == "0:03.5 picture, lower left"
    assert moment.box == (0, 180, 182, 360)  # rows 2 and 3 of 4, columns 0 and 1 of 7, in 640 x 360 pixels


def test_a_whole_picture_has_no_place():
    tokens = media_tokens()
    (moment,) = moments(tokens, evidence(tokens, at(tokens, Modality.VIDEO, 2, 4)))
    assert moment.label == "0:02–0:04 picture"
    assert moment.box is None


def test_a_still_picture_has_a_place_but_no_time():
    found = still(inspection())
    (moment,) = moments(found.tokens, evidence(found.tokens, found.tokens.cells[:, 2] < 2))
    assert moment.label == "picture, left"


def test_what_hardly_counts_is_not_told_and_nothing_makes_no_moment():
    tokens = media_tokens()
    weights = at(tokens, Modality.AUDIO, 1, 2) + 0.001 * at(tokens, Modality.VIDEO, 2, 3)
    assert [m.modality for m in moments(tokens, evidence(tokens, weights))] == ["audio"]
    assert moments(tokens, np.zeros(len(tokens.modality), np.float32)) == ()


@pytest.mark.parametrize(
    ("times", "duration", "grids", "expected"),
    [
        ([0.5, 1.5, 2.5], 3.0, 3, [(0, 1), (1, 2), (2, 3)]),  # a frame a grid: halfway to its neighbours
        ([0.25, 0.75, 1.25, 1.75], 2.0, 2, [(0, 1), (1, 2)]),  # two frames a grid
        ([0.25, 0.75, 1.25], 1.5, 2, [(0, 1), (1, 1.5)]),  # the last grid has only one
        ([0.0], 0.0, 1, [(0, 0)]),  # a still picture
    ],
)
def test_a_frame_stands_for_the_time_up_to_its_neighbours(times, duration, grids, expected):
    assert frame_spans(np.array(times), duration, grids).tolist() == [list(pair) for pair in expected]


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [(0.1, 0.1, "upper left"), (0.5, 0.1, "top"), (0.9, 0.5, "right"), (0.5, 0.5, "middle"), (0.8, 0.9, "lower right")],
)
def test_places_have_names(x, y, words):
    assert place_words(x, y) == words
