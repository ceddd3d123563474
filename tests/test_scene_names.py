"""What a whole frame is called, from the probabilities of ImageNet's classes and from real photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from epcli.observe import scenes
from epcli.observe.efficientnet_lite import load_class_names

PHOTOS = Path(__file__).parent / "data" / "photos"
LABELS = load_class_names()


def chances(**said: float) -> np.ndarray:
    """(1000,) probabilities: what is said of the labels ("_" for a space), the rest evenly over all classes."""
    p = np.full(1000, (1 - sum(said.values())) / 1000, np.float32)
    for label, share in said.items():
        p[LABELS.index(label.replace("_", " "))] += share
    return p


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"golden_retriever": 0.7}, "golden retriever"),
        ({"golden_retriever": 0.3, "beagle": 0.25}, "dog"),
        ({"golden_retriever": 0.2, "tabby": 0.2, "hare": 0.2}, "animal"),
        ({"golden_retriever": 0.3}, None),
        ({"cock": 0.2, "hen": 0.23}, "chicken"),  # of two classes only: .4 is enough
        ({"hen": 0.45}, "chicken"),
        ({"toy_poodle": 0.35, "standard_poodle": 0.35}, "poodle"),  # two classes of one name
        ({"minibus": 0.6, "police_van": 0.2}, "bus"),
        ({"castle": 0.35, "palace": 0.2}, "castle"),
        ({"car_wheel": 0.2, "grille": 0.2, "sports_car": 0.15}, "car"),  # a wheel is not a car but speaks for one
        ({"daisy": 0.8}, "flower"),  # ImageNet knows two flowers: what looks like one is a flower
        ({"web_site": 0.9}, None),  # distrusted, and nothing coarser
        ({"suit": 0.5, "Windsor_tie": 0.4}, None),  # clothes are what a person wears, not what is seen
        ({"impala": 0.3, "gazelle": 0.3}, "animal"),  # a deer looks so
        ({}, None),  # two fifths of all classes are animals
        ({"lion": 0.15, "hog": 0.1}, None),
    ],
)
def test_a_frame_is_named_no_more_finely_than_is_sure(said: dict[str, float], name: str | None) -> None:
    found = scenes.name(chances(**said))
    assert (found and found[0]) == name
    if found:
        assert 0.4 <= found[1] <= 1


@pytest.mark.parametrize(
    ("said", "coco", "stands"),
    [
        ({"lion": 0.8}, "cat", False),
        ({"tabby": 0.2, "lynx": 0.3}, "cat", True),
        ({"giant_panda": 0.9}, "bear", False),
        ({"hippopotamus": 0.4}, "elephant", False),
        ({"African_elephant": 0.2, "hippopotamus": 0.3}, "elephant", True),
        ({"lion": 0.1, "web_site": 0.8}, "cat", True),  # it knows of no animal
        ({"bison": 0.9}, "cow", True),  # ImageNet hardly has cows, sheep, horses and giraffes
        ({"bison": 0.9}, "person", True),
    ],
)
def test_a_detectors_animal_falls_where_another_one_is_seen(said: dict[str, float], coco: str, stands: bool) -> None:
    assert scenes.says(chances(**said), coco) == stands


def test_shares_add_up_what_is_a_kind() -> None:
    p = chances(golden_retriever=0.5, beagle=0.25, car_wheel=0.25)
    assert scenes.is_animal_share(p) == pytest.approx(0.75, abs=1e-3)
    assert scenes.share(p, "dog") == pytest.approx(0.75, abs=1e-3)
    assert scenes.share(p, "golden retriever") == pytest.approx(0.5, abs=1e-3)
    assert scenes.share(p, "car") == pytest.approx(0, abs=1e-3)
    assert scenes.share(p, "giraffe") == 0
    assert scenes.fine_name(p) == ("golden retriever", pytest.approx(0.5))


@pytest.mark.slow
def test_photographs_are_named_truly_or_not_at_all() -> None:
    namer = scenes.SceneNamer()
    photos = [cv2.imread(str(PHOTOS / f"{name}.jpg"))[..., ::-1] for name in ("kitten", "musicians", "parking")]
    dark = np.zeros((360, 640, 3), np.uint8)
    p = namer.probabilities([*photos, dark, photos[0]])
    assert p.shape == (5, 1000)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(p[4], p[0], atol=1e-5)  # whatever else is in the batch
    said = [found and found[0] for found in map(scenes.name, p)]
    assert said[0] in {"animal", "cat", "tabby cat"}
    assert said[1] in {"musical instrument", None}
    assert said[2:4] == [None, None]
    assert scenes.says(p[0], "cat")
    assert not scenes.says(p[0], "elephant")
    assert namer.probabilities([]).shape == (0, 1000)
