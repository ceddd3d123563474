"""Sizes, and which frames stand for which intervals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import media_samples as samples
import numpy as np
import pytest

from epcli.errors import UsageError
from epcli.media import sampling
from epcli.media.ffmpeg import Deadline
from epcli.media.probe import inspect
from epcli.media.sampling import fit_size, frame_count, pick_frames, shown_at, with_room
from epcli.records import MediaInfo, Sampling


@pytest.mark.parametrize(
    ("size", "max_pixels", "multiple", "fitted"),
    [
        ((640, 480), 640 * 480, 16, (640, 480)),  # fits as it is
        ((1920, 1080), 448 * 252, 28, (448, 252)),  # 16:9 exactly
        ((1080, 1920), 448 * 252, 28, (252, 448)),
        ((100, 100), 224 * 224, 32, (224, 224)),  # small pictures are scaled up
        ((321, 177), 105_369, 28, (420, 224)),
        ((1000, 1000), 28 * 28, 28, (28, 28)),  # one cell
        ((1, 1), 48 * 48, 16, (48, 48)),
        ((1000, 10), 8 * 32 * 32, 32, (256, 32)),  # wider than the cells allow: one row
        ((10, 1000), 8 * 32 * 32, 32, (32, 256)),
    ],
)
def test_size_is_the_closest_aspect_ratio_within_the_area(
    size: tuple[int, int], max_pixels: int, multiple: int, fitted: tuple[int, int]
) -> None:
    assert fit_size(*size, max_pixels, multiple) == fitted


def test_no_size_breaks_the_limits_or_could_be_less_distorted_without_being_smaller() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        width, height = (int(value) for value in generator.integers(90, 2000, 2))
        multiple = int(generator.choice([2, 14, 16, 28, 32]))
        cells = int(generator.integers(40, 800))
        max_pixels = cells * multiple**2 + int(generator.integers(0, multiple**2))
        fitted = fit_size(width, height, max_pixels, multiple)
        why = f"{width}x{height} -> {fitted}, multiple {multiple}, {cells} cells"
        assert fitted[0] % multiple == 0 == fitted[1] % multiple, why
        assert 0.5 * max_pixels <= fitted[0] * fitted[1] <= max_pixels, why

        columns, rows = (side // multiple for side in fitted)
        others = ((c, r) for c in range(1, cells + 1) for r in range(1, cells // c + 1) if c * r >= columns * rows)
        least = min(abs(math.log(c / r * height / width)) for c, r in others)
        assert abs(math.log(columns / rows * height / width)) <= least + 1e-9, why


def test_an_area_below_one_cell_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="smaller than one cell of 28x28"):
        fit_size(640, 360, 783, 28)


@pytest.mark.parametrize(
    ("duration", "fps", "max_frames", "count"),
    [(8.0, 2.0, 64, 16), (8.02, 2.0, 64, 16), (0.04, 2.0, 64, 1), (100.0, 2.0, 64, 64), (3.0, 0.5, 64, 2)],
)
def test_one_frame_each_1_over_fps_seconds_within_limits(
    duration: float, fps: float, max_frames: int, count: int
) -> None:
    assert frame_count(duration, fps, max_frames) == count


@pytest.mark.parametrize(
    ("times", "last_end", "centre", "shown"),
    [
        ([0, 0.5, 1, 1.5], 2, 1.2, 1.0),  # on screen at the centre
        ([0, 0.5, 1, 1.5], 2, 1.0, 1.0),  # begins at the centre
        ([0], 9, 1.2, 0.0),  # a slide from before the interval
        ([1.4], 9, 1.2, 1.4),  # the picture starts within the interval
        ([3.0], 9, 1.2, None),  # the picture starts later
        ([0, 0.5], 0.9, 1.2, None),  # the picture has ended
        ([0, 1.05], 1.1, 1.2, 1.05),  # ended within the interval: its last frame
        ([], -math.inf, 1.2, None),
    ],
)
def test_an_interval_is_stood_for_by_the_frame_on_screen_at_its_centre(
    times: list[float], last_end: float, centre: float, shown: float | None
) -> None:
    assert shown_at(np.array(times, np.float64), last_end, centre, 1.0, 2.0) == shown


def test_keyframes_are_taken_where_each_interval_holds_one_and_exact_frames_where_not() -> None:
    film = samples.shared_film("gop.mkv", (*samples.X264, "-g", "25", "-sc_threshold", "0"), (), length=10)
    layout = inspect(film, Deadline(60))
    coarse = pick_frames(layout, 0.0, 10.0, 9, Deadline(60))
    assert [pick.at_s for pick in coarse] == pytest.approx([0, 2, 3, 4, 5, 6, 7, 8, 9])
    assert all(pick.is_keyframe for pick in coarse)
    fine = pick_frames(layout, 0.0, 10.0, 20, Deadline(60))
    assert [pick.at_s for pick in fine] == pytest.approx([0.24 + 0.5 * n - 0.02 * (n % 2) for n in range(20)])
    assert not any(pick.is_keyframe for pick in fine)
    few = pick_frames(layout, 0.0, 10.0, 2, Deadline(60))
    assert [pick.at_s for pick in few] == pytest.approx([2.48, 7.48])


@pytest.mark.parametrize("count", [3, 9, 20, 200])
def test_looking_up_interval_by_interval_finds_the_same_frames_as_reading_on(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = samples.shared_film("gop.mkv", (*samples.X264, "-g", "25", "-sc_threshold", "0"), (), length=10)
    layout = inspect(film, Deadline(60))
    reading_on = pick_frames(layout, 0.3, 9.7, count, Deadline(60))
    monkeypatch.setattr(sampling, "WINDOW_STEP_S", 0.0)
    assert pick_frames(layout, 0.3, 9.7, count, Deadline(60)) == reading_on


def test_wide_intervals_of_a_format_without_index_are_planned_without_reading_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    film = samples.film(tmp_path / "stream.ts")
    layout = inspect(film, Deadline(60))
    monkeypatch.setattr(sampling, "WINDOW_STEP_S", 0.0)
    picks = pick_frames(layout, 0.0, 3.0, 3, Deadline(60))
    assert [(pick.at_s, pick.is_known) for pick in picks] == [(0.5, False), (1.5, False), (2.5, False)]


@pytest.mark.parametrize(
    ("size", "seconds", "cells"),
    [
        ((640, 360), None, 23 * 13),  # a still: as it is, in whole cells
        ((4000, 3000), None, 1280),  # no more than all that few frames may have
        ((100, 100), None, 128),  # a small one has what a frame has
        ((1920, 1080), 1.0, 640),  # two frames
        ((1920, 1080), 3.0, 213),
        ((1920, 1080), 5.0, 128),  # ten frames: as any film's
        ((1920, 1080), 3600.0, 128),
    ],
)
def test_a_still_and_few_frames_may_have_more_pixels(size, seconds, cells):
    info = MediaInfo(Path("clip.mp4"), "mp4", seconds or 0.0, seconds is None, *size, 25.0, "h264", ())
    given = Sampling(2.0, 256, 128 * 28**2, 28, few_pixels=1280 * 28**2)
    made = with_room(given, info, seconds or 0.0)
    assert made.max_pixels // 28**2 == cells
    assert with_room(replace(given, few_pixels=0), info, seconds or 0.0).max_pixels == given.max_pixels
