"""Where the picture changes, and what keeps a frame from being recognised: without a network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from epcli.observe.shots import find_shots, flags_of

PHOTOS = Path(__file__).parent / "data" / "photos"


def photo(name: str, width: int = 480, height: int = 320) -> np.ndarray:
    return cv2.resize(cv2.imread(str(PHOTOS / f"{name}.jpg"))[..., ::-1], (width, height), interpolation=cv2.INTER_AREA)


KITTEN, MUSICIANS, PARKING = (photo(name) for name in ("kitten", "musicians", "parking"))
BLACK = np.zeros_like(KITTEN)


def mixture(a: np.ndarray, b: np.ndarray, weight: float) -> np.ndarray:
    return np.round(a * (1 - weight) + b * weight).astype(np.uint8)


def view(picture: np.ndarray, left: int) -> np.ndarray:
    """Half the width of the picture: where the camera points."""
    return picture[:, left : left + picture.shape[1] // 2]


@pytest.mark.parametrize(
    ("frames", "stretches", "between"),
    [
        ([KITTEN], [(0, 1)], []),
        ([KITTEN, KITTEN, MUSICIANS, PARKING], [(0, 2), (2, 3), (3, 4)], []),
        ([KITTEN, mixture(KITTEN, MUSICIANS, 0.3), MUSICIANS], [(0, 2), (2, 3)], [1]),  # a dissolve
        ([KITTEN, mixture(KITTEN, MUSICIANS, 0.7), MUSICIANS], [(0, 1), (1, 3)], [1]),
        ([KITTEN, *(mixture(KITTEN, MUSICIANS, weight) for weight in (0.3, 0.7)), MUSICIANS], [(0, 2), (2, 4)], [1, 2]),
        ([BLACK, KITTEN], [(0, 1), (1, 2)], []),
        ([view(MUSICIANS, left) for left in (0, 50, 100, 150)], [(0, 4)], []),  # a moving camera is no cut
        ([PARKING, mixture(PARKING, BLACK, 0.3), PARKING], [(0, 3)], []),  # nor is changing light
    ],
)
def test_stretches_end_where_the_picture_changes(
    frames: list[np.ndarray], stretches: list[tuple[int, int]], between: list[int]
) -> None:
    shots = find_shots(frames)
    assert [(stretch.start, stretch.stop) for stretch in shots.stretches] == stretches
    assert sorted(shots.between) == between


def test_frames_that_look_alike_are_looked_at_once() -> None:
    noise = np.random.default_rng(0).integers(-3, 4, KITTEN.shape)
    noisy = np.clip(KITTEN + noise, 0, 255).astype(np.uint8)
    captioned = KITTEN.copy()
    cv2.putText(captioned, "EXIT", (40, 60), cv2.FONT_HERSHEY_DUPLEX, 1.0, (255, 255, 255), 2)
    assert find_shots([KITTEN, noisy, captioned, captioned, KITTEN]).looks_like == (0, 0, 2, 2, 4)


def title() -> np.ndarray:
    picture = np.zeros_like(KITTEN)
    cv2.putText(picture, "THE END", (150, 170), cv2.FONT_HERSHEY_DUPLEX, 1.2, (255, 255, 255), 2)
    return picture


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (KITTEN, ""),
        (MUSICIANS, ""),
        (PARKING, ""),
        (BLACK, "black"),
        (np.full_like(BLACK, 16), "black"),  # black of a film whose levels were not stretched
        (title(), ""),
        (np.full_like(BLACK, 180), "blank"),
        (np.full_like(BLACK, (40, 90, 200)), "blank"),
        (mixture(MUSICIANS, BLACK, 0.7), "dark"),
        (cv2.GaussianBlur(KITTEN, (0, 0), 9), "blurred"),
    ],
)
def test_a_frame_that_cannot_be_recognised_says_why(frame: np.ndarray, why: str) -> None:
    assert flags_of(frame).why == why
