"""Evidence as people read it: when, where, and how it is said."""

from __future__ import annotations

import numpy as np
import pytest
from inspections import DOG, PERSON, inspection, media_tokens, observed_tokens, still

from epcli.records import Modality
from epcli.session.moments import frame_spans, moments, place_words, things


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


def named(tokens, name, modality=Modality.VIDEO):
    return (np.array(tokens.labels) == name) & (tokens.modality == modality)


def test_observations_keep_their_boxes_and_names():
    tokens = observed_tokens()
    assert tokens.observed
    (frame, *_), *_ = tokens.cells[named(tokens, "person")]
    assert frame == 2
    assert tokens.boxes[named(tokens, "dog")][0].tolist() == [448, 216, 608, 342]  # of 640 x 360 pixels
    assert tokens.boxes[named(tokens, "cut")][0].tolist() == [0, 0, 640, 360]
    assert tokens.spans_s[named(tokens, "cut")].tolist() == [[6, 7]]
    assert (tokens.boxes[tokens.modality == Modality.AUDIO] == -1).all()


@pytest.mark.parametrize(
    ("which", "label", "box"),
    [
        (lambda t: named(t, "person"), "person, left, 0:02–0:07", (45, 79, 173, 331)),
        (lambda t: named(t, "person") & (t.cells[:, 0] == 3), "person, left, 0:03.5", (51, 83, 179, 335)),
        (lambda t: named(t, "text 'EXIT'"), "text 'EXIT', top, 0:05.5", (256, 18, 384, 54)),
        (lambda t: named(t, "cut"), "cut, 0:06.5", None),
        (lambda t: named(t, "dog", Modality.AUDIO), "dog, 0:04–0:06 sound", None),
        (lambda t: named(t, "' train'", Modality.AUDIO), "'train', 0:03–0:03.1 sound", None),
        (lambda t: (t.modality == Modality.AUDIO) & (t.spans_s[:, 0] > 6.5), "0:06.6–0:08 sound", None),
    ],
)
def test_an_observation_is_told_by_its_name_place_and_time(which, label, box):
    tokens = observed_tokens()
    (moment,) = moments(tokens, evidence(tokens, which(tokens)))
    assert moment.label == label
    assert moment.box == box
    assert label.startswith(moment.name or "0:")


def test_what_is_said_is_told_in_whole_words():
    tokens = observed_tokens()
    spoken = (tokens.modality == Modality.AUDIO) & (tokens.spans_s[:, 0] > 2.8) & (tokens.spans_s[:, 0] < 3.4)
    assert [m.name for m in moments(tokens, evidence(tokens, spoken))] == ["'the train leaves'"]


def test_the_same_name_on_two_sides_is_two_moments_and_a_gap_of_one_frame_none():
    right = tuple(x + 0.7 * (i % 2 == 0) for i, x in enumerate(PERSON))
    seen = [(frame, "person", box, 1) for frame in (0, 1, 3) for box in (PERSON, right)]
    tokens = observed_tokens(seen)
    weights = evidence(tokens, named(tokens, "person") * np.where(tokens.boxes[:, 0] > 320, 2, 1))
    assert [m.label for m in moments(tokens, weights)] == ["person, right, 0:00–0:04", "person, left, 0:00–0:04"]


def test_things_of_one_name_in_one_place_at_one_time_are_told_once():
    lower = (0.06, 0.45, 0.2, 0.7)
    tokens = observed_tokens([(frame, "person", box, 1) for frame in (1, 2) for box in (PERSON, lower)])
    assert len(things(tokens)) == 2
    strong = named(tokens, "person") * np.where(tokens.boxes[:, 1] > 100, 3, 1)
    (moment,) = moments(tokens, evidence(tokens, strong))
    assert moment.label == "person, left, 0:01–0:03"
    assert moment.share == pytest.approx(1)
    assert moment.box == (38, 162, 128, 252)


def test_what_is_seen_again_much_later_or_far_away_is_another_thing():
    far = (0.9, *DOG[1:])
    tokens = observed_tokens([(0, "dog", (0.0, 0.6, 0.2, 0.9), 2), (1, "dog", far, 1), (6, "dog", far, 1)])
    assert [tokens.cells[thing, 0].tolist() for thing in things(tokens)] == [[0, 0], [1], [6]]


def test_nothing_observed_makes_no_moment():
    tokens = observed_tokens([])
    assert things(tokens) == []
    assert moments(tokens, np.zeros(len(tokens.modality), np.float32)) == ()
