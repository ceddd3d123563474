"""Writing frames and samples as a media file, and two files read as one clip."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import soundfile
from media_samples import pitch_hz

from epcli.errors import EpError, MediaError
from epcli.media.probe import probe
from epcli.media.read import read, still_with_sound
from epcli.media.write import compressed_sound, write
from epcli.records import SAMPLE_RATE, Sampling

SAMPLING = Sampling(1.0, 8, 64 * 48, 16)


def tone(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_what_was_written_is_read_back(tmp_path):
    shades = [np.full((48, 64, 3), 60 * i, np.uint8) for i in range(4)]
    write(tmp_path / "film.mp4", (s for s in shades for _ in range(2)), 2.0, tone(4), crf=18)
    clip = read(tmp_path / "film.mp4", SAMPLING)
    assert [round(float(frame.mean()) / 60) for frame in clip.frames] == [0, 1, 2, 3]
    assert abs(clip.duration_s - 4) < 0.1
    assert clip.samples.std() == pytest.approx(0.5 / 2**0.5, rel=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_odd_sides_are_padded_and_a_film_may_be_silent(tmp_path):
    write(tmp_path / "film.mp4", [np.zeros((33, 47, 3), np.uint8)] * 4, 4.0)
    info = probe(tmp_path / "film.mp4")
    assert (info.width, info.height, info.has_audio) == (48, 34, False)


def test_sound_alone(tmp_path):
    write(tmp_path / "sound.m4a", samples=tone(1))
    clip = read(tmp_path / "sound.m4a", SAMPLING)
    assert clip.frames is None
    assert len(clip.samples) == pytest.approx(SAMPLE_RATE, abs=600)


def test_a_failure_leaves_nothing_and_says_why(tmp_path):
    with pytest.raises(MediaError, match="neither picture nor sound"):
        write(tmp_path / "film.mp4")
    with pytest.raises(EpError, match=r"film\.xyz: ffmpeg could not write it: "):
        write(tmp_path / "film.xyz", [np.zeros((32, 32, 3), np.uint8)])
    with pytest.raises(EpError, match=r"film\.mp4"):
        write(tmp_path / "nowhere" / "film.mp4", [np.zeros((32, 32, 3), np.uint8)])
    assert not list(tmp_path.iterdir())


def test_a_film_may_have_a_name_that_is_not_utf8(tmp_path):
    write(tmp_path / "dog\udce9.mp4", [np.zeros((32, 32, 3), np.uint8)] * 2, 2.0)
    assert probe(tmp_path / "dog\udce9.mp4").has_video


def test_a_still_picture_lasts_as_long_as_its_sound(tmp_path):
    cv2.imwrite(str(tmp_path / "still.png"), np.full((48, 64, 3), 200, np.uint8))
    soundfile.write(tmp_path / "sound.wav", tone(3), SAMPLE_RATE)
    picture, sound = read(tmp_path / "still.png", SAMPLING), read(tmp_path / "sound.wav", SAMPLING)
    clip = still_with_sound(picture, sound)
    assert clip.range_s == (0.0, 3.0)
    assert clip.frames.shape[0] == 1
    assert clip.frame_times_s.tolist() == [0.0]
    assert len(clip.samples) == 3 * SAMPLE_RATE
    assert clip.info.has_video
    assert clip.info.has_audio
    with pytest.raises(MediaError, match=r"still\.png: has no sound"):
        still_with_sound(picture, picture)


def test_sound_for_a_page_is_an_mp3_of_an_even_bit_rate():
    samples = (0.3 * np.sin(np.arange(10 * SAMPLE_RATE) * 2 * np.pi * 440 / SAMPLE_RATE)).astype(np.float32)
    content, kind = compressed_sound(samples)
    assert kind == "audio/mpeg"
    assert len(content) * 8 / 10 == pytest.approx(32_000, rel=0.03)
    heard, rate = soundfile.read(io.BytesIO(content))
    assert rate == SAMPLE_RATE
    assert pitch_hz(heard.astype(np.float32)) == pytest.approx(440, abs=5)
