"""What a report tells besides the answer: what the file has and lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from epcli.records import AudioTrack, ClipSummary, MediaInfo, Sampling
from epcli.session.reporting import missing

SOUND = (AudioTrack(0, "aac", 2, 48_000, None, None),)


@pytest.mark.parametrize(
    ("info", "switches", "told"),
    [
        (("h264", SOUND), {}, []),
        (("h264", ()), {}, ["clip.mp4 has no sound"]),
        ((None, SOUND), {}, ["clip.mp4 has no picture"]),
        (("h264", SOUND), {"audio": False}, ["clip.mp4: the sound was switched off"]),
        (("h264", SOUND), {"video": False}, ["clip.mp4: the picture was switched off"]),
        (("h264", ()), {"audio": False}, ["clip.mp4 has no sound"]),  # nothing was there to switch off
    ],
)
def test_each_modality_that_the_model_knows_nothing_of_is_told(info, switches, told):
    codec, tracks = info
    clip = ClipSummary(
        MediaInfo(Path("clip.mp4"), "mov", 2.0, False, 64, 48, 25.0, codec, tracks), (0.0, 2.0), (), True
    )
    assert missing(clip, Sampling(1.0, 64, 10_000, 28, **switches)) == told


def test_that_a_still_picture_has_no_sound_goes_without_saying():
    still = MediaInfo(Path("cow.png"), "png_pipe", 0.0, True, 64, 48, None, "png", ())
    for audio in (True, False):
        assert missing(ClipSummary(still, (0.0, 0.0), (0.0,), False), Sampling(1.0, 64, 10_000, 28, audio=audio)) == []
