"""Detections become tracks, and names count when they are sure often enough."""

from __future__ import annotations

import numpy as np
import pytest

from epcli.observe import names, objects
from epcli.observe.nanodet import Detection
from epcli.observe.opinion import Opinion

SILENT = Opinion({})  # no classifier
LEFT, MIDDLE, RIGHT = (0.0, 0.2, 0.2, 0.8), (0.4, 0.2, 0.6, 0.8), (0.8, 0.2, 1.0, 0.8)
WIDE = (0.1, 0.1, 0.9, 0.9)


def seen(frames: list[list[tuple[str, float, objects.Box]]], opinion: Opinion = SILENT) -> list[objects.Track]:
    things = {
        k: objects.things_of([Detection(*found) for found in sorted(frame, key=lambda each: -each[1])])
        for k, frame in enumerate(frames)
    }
    return objects.name_tracks(objects.follow(things), range(len(frames)), opinion)


def classifier(frames: int, **shares: float) -> Opinion:
    """One that gives the first class of each name so much, in all frames."""
    p = np.full(1000, 1e-5, np.float32)
    for name, share in shares.items():
        p[next(k for k, each in enumerate(names.classes()) if name in (each.name, *each.kinds))] = share
    return Opinion(dict.fromkeys(range(frames), p))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([[("dog", 0.6, LEFT)]] * 4, {"dog": 1}),
        ([[("dog", 0.45, LEFT)]] * 4, {}),  # never sure
        ([[("person", 0.46, LEFT)]] * 4, {"person": 1}),  # of people it is sooner sure
        ([[("dog", 0.7, LEFT)], [], [], [], [], []], {"dog": 1}),  # a moment, but sure
        ([[("dog", 0.55, LEFT)], [], [], [], [], []], {}),
        ([[("dog", 0.55, LEFT)]], {}),  # one look at a still picture
        ([[("dog", 0.7, LEFT)]], {"dog": 1}),
        ([[("person", 0.8, LEFT), ("person", 0.42, RIGHT)]] * 4, {"person": 2}),  # beside a sure one
        ([[("person", 0.8, LEFT), ("person", 0.32, RIGHT)]] * 4, {"person": 1}),
        ([[("horse", 0.6, LEFT), ("cow", 0.55, LEFT)]] * 4, {"horse": 1}),  # one thing, two names
        ([[("dog", 0.6, LEFT)], [("wolf", 0.7, LEFT)], [("dog", 0.6, LEFT)]], {"dog": 1}),  # named by vote
        ([[("dog", 0.6, LEFT)], [("dog", 0.6, RIGHT)]] * 3, {"dog": 2}),
    ],
)
def test_a_name_counts_if_it_is_sure_often_enough(
    frames: list[list[tuple[str, float, objects.Box]]], expected: dict[str, int]
) -> None:
    tracks = seen(frames)
    assert {name: sum(track.name == name for track in tracks) for name in {track.name for track in tracks}} == expected


def test_a_moving_thing_stays_the_same() -> None:
    path = [(0.1 * k, 0.2, 0.1 * k + 0.2, 0.8) for k in range(6)]
    tracks = seen([[("person", 0.7, box), ("person", 0.6, RIGHT)] for box in path])
    assert [sorted(track.things) for track in tracks] == [list(range(6))] * 2
    assert [track.things[k].box for track in tracks[:1] for k in range(6)] == path


def test_a_count_is_smooth_over_frames() -> None:
    both, one = [("person", 0.7, LEFT), ("person", 0.6, RIGHT)], [("person", 0.7, LEFT)]
    tracks = seen([both, both, one, both, both, one])
    assert objects.counts(tracks, range(6)) == {"person": dict.fromkeys(range(6), 2)}


@pytest.mark.parametrize(
    ("found", "shares", "expected"),
    [
        ("dog", {"tiger": 0.7}, []),  # another animal
        ("dog", {"dog": 0.4, "tiger": 0.4}, ["dog"]),
        ("cow", {"bison": 0.7}, ["cow"]),  # the classifier hardly knows cows
        ("person", {"suit": 0.8}, ["person"]),
        ("orange", {"daisy": 0.8}, []),
        ("bus", {"fire engine": 0.9}, []),
        ("bear", {"tiger": 0.6}, []),
        ("sheep", {"tiger": 0.6}, ["sheep"]),
        ("sheep", {"tiger": 0.9}, []),  # beyond doubt, and the sheep is not
        ("television", {"daisy": 0.8}, ["television"]),  # only vehicles and food fill the picture like that
    ],
)
def test_the_classifier_of_whole_frames_may_know_better(
    found: str, shares: dict[str, float], expected: list[str]
) -> None:
    tracks = seen([[(found, 0.6, WIDE)]] * 3, classifier(3, **shares))
    assert [track.name for track in tracks] == expected


def test_what_both_parts_report_counts_from_a_lower_score_on() -> None:
    frames = [[("cat", 0.4, LEFT)]] * 3
    assert seen(frames) == []
    assert [track.name for track in seen(frames, classifier(3, cat=0.4))] == ["cat"]


def test_an_upright_animal_is_no_person() -> None:
    frames = [[("person", 0.48, WIDE)]] * 3
    assert [track.name for track in seen(frames)] == ["person"]
    assert seen(frames, classifier(3, penguin=0.8)) == []
    surely = [[("person", 0.6, WIDE)]] * 3
    assert [track.name for track in seen(surely, classifier(3, penguin=0.8))] == ["person"]


def test_a_name_that_stands_behind_a_doubted_one_is_doubted_too() -> None:
    frames = [[("bear", 0.6, WIDE), ("dog", 0.55, WIDE)]] * 3
    assert seen(frames, classifier(3, panda=0.9)) == []


def test_a_part_of_an_agreed_thing_is_not_another_one() -> None:
    frames = [[("cat", 0.42, (0.2, 0.2, 0.8, 0.8)), ("cat", 0.35, (0.5, 0.4, 0.9, 0.8))]] * 3
    assert len(seen(frames, classifier(3, cat=0.6))) == 1


def test_doubtful_animals_beside_a_sure_one_are_of_its_kind() -> None:
    frames = [[("bird", 0.4, LEFT), ("cow", 0.35, MIDDLE), ("chair", 0.35, RIGHT)]] * 4
    assert [track.name for track in seen(frames, classifier(4, chicken=0.9))] == ["bird", "bird"]
