"""The eye on real photographs, and what becomes of its sights over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from epcli.media.read import read
from epcli.observe.picture import Box, Eye, observations
from epcli.records import Clip, MediaInfo, Observation, Sampling, SeenFeatures, Sight

PHOTOS = Path(__file__).parent / "data" / "photos"
FILM = Path(__file__).parents[1] / "docs" / "media" / "photos.mp4"
SAMPLING = Sampling(fps=1.0, max_frames=64, max_pixels=640 * 384, multiple=32, audio=False)


class Reader:
    """Reads a line in each frame that is looked at: the numbers of the lines are those of its calls."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)

    def read(self, frame: np.ndarray) -> list[tuple[str, float, Box]]:
        return [(self.lines.pop(0), 0.9, (0.1, 0.8, 0.5, 0.9))] if self.lines else []


@pytest.fixture(scope="module")
def eye() -> Eye:
    return Eye()


def kinds(seen: SeenFeatures | None) -> list[list[str]]:
    assert seen is not None
    return [[sight.kind for sight in frame] for frame in seen.frames]


@pytest.mark.slow
def test_real_footage_is_named_counted_and_cut(eye: Eye) -> None:
    seen = eye.see(read(FILM, SAMPLING))
    assert seen is not None
    assert [len(seen.frames), len(seen.times_s), seen.step_s] == [10, 10, pytest.approx(1.0)]
    cuts = [k for k, frame in enumerate(seen.frames) if any(sight.kind == "cut" for sight in frame)]
    assert cuts == [4]
    for k, frame in enumerate(seen.frames):
        things = [sight for sight in frame if sight.kind == "object"]
        assert {thing.text for thing in things} == {"sheep" if k < 4 else "person"}
        assert {thing.count for thing in things} == {1 if k < 4 else 4}
        for thing in things:
            assert thing.box is not None
            assert 0 <= thing.box[0] < thing.box[2] <= 1
            assert 0 <= thing.box[1] < thing.box[3] <= 1
    assert len({thing.track for frame in seen.frames for thing in frame if thing.kind == "object"}) == 5


@pytest.mark.slow
def test_a_street_without_people_has_none(eye: Eye) -> None:
    seen = eye.see(read(PHOTOS / "parking.jpg", SAMPLING))
    assert seen is not None
    assert all(sight.text != "person" for frame in seen.frames for sight in frame)
    assert {sight.text for frame in seen.frames for sight in frame if sight.kind == "text"} == {"EXIT", "ENTER"}


def clip(*frames: np.ndarray) -> Clip:
    info = MediaInfo(Path("clip.mp4"), "mp4", float(len(frames)), False, 96, 64, 25.0, "h264", ())
    return Clip(info, (0.0, float(len(frames))), np.stack(frames), np.arange(len(frames)) + 0.5, None)


BLACK, GREY = np.zeros((64, 96, 3), np.uint8), np.full((64, 96, 3), 128, np.uint8)
NOISE = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.mark.slow
def test_where_nothing_is_sure_a_frame_says_why(eye: Eye) -> None:
    seen = eye.see(clip(BLACK, GREY, NOISE))
    assert kinds(seen) == [["black"], ["cut", "unsure"], ["cut", "unsure"]]
    assert seen is not None
    assert [frame[-1].text for frame in seen.frames] == ["", "blank", ""]
    assert eye.see(Clip(clip(BLACK).info, (0.0, 1.0), None, None, None)) is None


@pytest.mark.slow
def test_text_is_reported_when_it_appears(eye: Eye) -> None:
    other = np.roll(NOISE, 20, 1)
    other[:, :48] = 200  # another shot
    eye_that_reads = Eye(Reader("Way out 1", "WAY OUI 1", "Way out 2"))
    seen = eye_that_reads.see(clip(NOISE, NOISE, other, GREY, NOISE))
    assert seen is not None
    read_in = {k: [sight.text for sight in frame if sight.kind == "text"] for k, frame in enumerate(seen.frames)}
    assert {k: lines for k, lines in read_in.items() if lines} == {0: ["Way out 1"], 4: ["Way out 2"]}


def features(*frames: list[Sight]) -> SeenFeatures:
    times = torch.arange(len(frames), dtype=torch.float64) + 0.5
    return SeenFeatures(tuple(tuple(frame) for frame in frames), times, 1.0)


def test_sights_of_one_name_in_a_row_are_one_observation() -> None:
    small, large = (0.1, 0.1, 0.2, 0.2), (0.5, 0.1, 0.9, 0.9)
    dog, dogs = [Sight("object", "dog", 0.6, small, 1, 0)], [Sight("object", "dog", 0.8, large, 2, 1)]
    sign, cut = Sight("text", "EXIT", 0.9, small), Sight("cut", "", 1.0)
    seen = features([*dog, sign], [], [*dogs, *dog], [cut, *dog], [Sight("black", "", 1.0)], [], [*dog])
    assert observations(seen, 10.0) == [
        Observation("text", "EXIT", 10.0, 13.0, 0.9, "rapidocr", small, 1),  # until the picture changes
        Observation("object", "dog", 10.0, 14.0, 0.8, "nanodet", large, 2),
        Observation("cut", "", 13.0, 13.0, 1.0, "level", None, 1),
        Observation("black", "", 14.0, 15.0, 1.0, "level", None, 1),
        Observation("object", "dog", 16.0, 17.0, 0.6, "nanodet", small, 1),
    ]


def test_nothing_seen_is_no_observation() -> None:
    assert observations(features()) == []
    assert observations(features([], [])) == []
