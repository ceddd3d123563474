"""A stretch of a file as a file of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from epcli.errors import EpError, MediaError
from epcli.media import ffmpeg
from epcli.media.cut import cut, file_name
from epcli.media.probe import inspect, probe
from epcli.media.read import read
from epcli.media.write import write
from epcli.records import Sampling

SAMPLING = Sampling(2.0, 16, 64 * 48, 16)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds that become brighter, with a tone."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    tone = (0.5 * np.sin(np.arange(160_000) / 6)).astype(np.float32)
    write(path, (np.full((48, 64, 3), 25 * (number // 2), np.uint8) for number in range(20)), 2.0, tone)
    return path


def brightness(path: Path) -> list[int]:
    clip = read(path, SAMPLING)
    assert clip.frames is not None
    return [round(float(frame.mean())) for frame in clip.frames]


def test_an_exact_cut_holds_just_that(film: Path, tmp_path: Path) -> None:
    made = cut(film, 4.0, 6.0, tmp_path, exact=True)
    assert made.name == "film 0m04-0m06 exact.mp4"  # not that of a copy, which may be there already
    assert probe(made).duration_s == pytest.approx(2.0, abs=0.1)
    assert probe(made).has_audio
    assert brightness(made)[0] == pytest.approx(100, abs=4)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told(film: Path) -> None:
    layout = inspect(film, ffmpeg.Deadline(60.0))
    with pytest.raises(EpError, match="cannot be written: No space left on device") as caught:
        ffmpeg.copy_part(
            film,
            layout.demuxer,
            None,
            0.0,
            2.0,
            [0],
            Path("/dev/full"),
            ffmpeg.Deadline(60.0),
            ["-c", "copy", "-f", "matroska"],
        )
    assert caught.type is EpError  # so that nothing tries again


def test_a_copy_holds_it_too(film: Path, tmp_path: Path) -> None:
    made = cut(film, 4.0, 6.0, tmp_path)
    info = probe(made)
    assert (info.has_video, info.has_audio) == (True, True)
    assert 1.9 <= info.duration_s <= 6.5  # from the picture before that stands for itself
    assert max(brightness(made)) >= 100


@pytest.mark.parametrize("suffix", [".mkv", ".mov", ".weird"])
def test_the_container_stays_where_it_takes_a_copy(film: Path, tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"film{suffix}"
    shutil.copyfile(film, source)
    made = cut(source, 1.0, 3.0, tmp_path)
    assert made.suffix == (".mp4" if suffix == ".weird" else suffix)
    assert probe(made).duration_s > 0


def test_what_is_there_already_stays(film: Path, tmp_path: Path) -> None:
    (tmp_path / "film 0m04-0m06.mp4").write_text("mine")
    assert cut(film, 4.0, 6.0, tmp_path).read_text() == "mine"
    assert cut(film, 4.0, 6.0, tmp_path, mark="2").name == "film 0m04-0m06 2.mp4"


def test_sound_and_pictures_can_be_cut(tmp_path: Path) -> None:
    sound = tmp_path / "sound.m4a"
    write(sound, samples=np.zeros(80_000, np.float32))
    assert probe(cut(sound, 1.0, 2.0, tmp_path)).duration_s == pytest.approx(1.0, abs=0.2)
    assert cut(sound, 1.0, 2.0, tmp_path, exact=True).suffix == ".m4a"


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("yard", "yard 0m42-0m47.mp4"),
        ("-rf; $(id)\x1b[2J\n", "rf_ __id___2J_ 0m42-0m47.mp4"),
        ("...", "clip 0m42-0m47.mp4"),
        ("x" * 300, "x" * 80 + " 0m42-0m47.mp4"),
        ("Straße 駅", "Straße 駅 0m42-0m47.mp4"),
    ],
)
def test_a_name_holds_nothing_that_acts(stem: str, expected: str) -> None:
    assert file_name(Path("/films") / f"{stem}.mp4", 42, 47, ".mp4") == expected


def test_a_nasty_name_can_be_cut(film: Path, tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"-y %03d \xff '\"$(id).mp4")
    shutil.copyfile(film, source)
    assert probe(cut(source, 1.0, 3.0, tmp_path)).has_video


def test_no_media_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("#EXTM3U\nfile:///etc/passwd")
    with pytest.raises(MediaError):
        cut(tmp_path / "a.mp4", 0.0, 1.0, tmp_path)
