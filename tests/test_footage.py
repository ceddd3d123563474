"""Footage made of photographs: where the camera looks, when things are seen and heard, and the film that is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("PIL")

from PIL import Image

from epcli.errors import MediaError
from epcli.lab.footage import Camera, Caption, Cue, Footage, Shot, frames, seen, sound, write_footage
from epcli.media.probe import probe
from epcli.records import SAMPLE_RATE

PHOTOS = Path(__file__).parent / "data" / "photos"
SIZE = (64, 48)
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def halves(tmp_path) -> Path:
    """A wide photograph, red on the left and blue on the right."""
    image = Image.new("RGB", (160, 48), RED)
    image.paste(BLUE, (80, 0, 160, 48))
    image.save(tmp_path / "halves.png")
    return tmp_path / "halves.png"


def font() -> Path:
    from PIL import ImageFont

    try:
        return Path(ImageFont.truetype("DejaVuSans.ttf", 12).path)
    except OSError:
        pytest.skip("no DejaVuSans.ttf here")


@pytest.mark.parametrize(
    ("camera", "colour"),
    [(Camera(0.0, 0.5), RED), (Camera(1.0, 0.5), BLUE), (Camera(0.25, 0.5, 2.0), RED), (Camera(0.75, 0.5, 2.0), BLUE)],
)
def test_the_camera_looks_at_a_place_and_never_past_the_edge(halves, camera, colour):
    frame = seen(Shot(0, 1, halves, (camera, camera)), 0.5, SIZE)
    assert (frame.reshape(-1, 3) == colour).all()


def test_a_whole_photograph_has_black_bars_and_both_its_sides(halves):
    frame = seen(Shot(0, 1, halves, whole=True), 0.5, SIZE)
    assert not frame[[0, -1]].any()
    assert [tuple(frame[24, x]) for x in (2, -3)] == [RED, BLUE]


def test_a_turned_photograph_is_set_upright(halves):
    frame = seen(Shot(0, 1, halves, turn=180, whole=True), 0.5, SIZE)
    assert [tuple(frame[24, x]) for x in (2, -3)] == [BLUE, RED]


def test_shots_black_and_captions_come_when_they_should(halves):
    red = (Camera(0.0, 0.5), Camera(0.0, 0.5))
    film = Footage(3.0, SIZE, (Shot(0, 1, halves, red), Shot(1, 2, None)), (Caption(2, 3, "EXIT", font(), "middle"),))
    brightest = [tuple(frame.max(axis=(0, 1))) for frame in frames(film, 2.0)]
    assert brightest[:4] == [RED, RED, (0, 0, 0), (0, 0, 0)]
    assert all(min(colour) > 100 for colour in brightest[4:]), "white letters on black"


@pytest.fixture
def beep(tmp_path) -> Path:
    soundfile.write(tmp_path / "beep.wav", 0.5 * np.sin(np.arange(SAMPLE_RATE // 2)), SAMPLE_RATE)
    return tmp_path / "beep.wav"


@pytest.mark.parametrize(("again", "heard"), [(False, [False, True, False, False]), (True, [False, True, True, True])])
def test_a_cue_is_heard_from_its_second_on(beep, again, heard):
    samples = sound(Footage(2.0, SIZE, (), cues=(Cue(0.5, 2.0, beep, again=again),)))
    level = np.abs(samples).reshape(4, -1).mean(1)
    assert (level > 0.01).tolist() == heard


def test_without_cues_there_is_no_sound_stream_and_with_none_playing_there_is_a_silent_one(halves, tmp_path):
    shots = (Shot(0, 1, halves),)
    write_footage(Footage(1.0, SIZE, shots), tmp_path / "dumb.mp4")
    write_footage(Footage(1.0, SIZE, shots, cues=()), tmp_path / "silent.mp4")
    assert [probe(tmp_path / name).has_audio for name in ("dumb.mp4", "silent.mp4")] == [False, True]


def test_a_broken_photograph_is_told_by_name(tmp_path):
    (tmp_path / "not.jpg").write_text("no picture")
    with pytest.raises(MediaError, match=r"^not\.jpg: is not a readable photograph"):
        seen(Shot(0, 1, tmp_path / "not.jpg"), 0, SIZE)


@pytest.mark.parametrize("name", ["kitten.jpg", "musicians.jpg", "parking.jpg", "sheep.jpg"])
def test_our_photographs_are_small_and_have_a_row_with_their_licence(name):
    assert (PHOTOS / name).stat().st_size <= 150_000
    row = next(line for line in (PHOTOS / "README.md").read_text().splitlines() if f"`{name}`" in line)
    assert row.rstrip(" |").endswith(("CC-BY-2.0", "CC-BY-SA-3.0", "CC0-1.0"))
