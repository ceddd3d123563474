"""What a report tells besides the answer: what the file has and lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from epcli.records import AudioTrack, ClipSummary, MediaInfo, Sampling, SeenFeatures, Sight, VideoFeatures
from epcli.session.reporting import missing, unrecognised

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


BLACK, UNSURE, DARK = Sight("black", "", 1.0), Sight("unsure", "", 1.0), Sight("unsure", "dark", 1.0)
DOG, CUT, READ = Sight("object", "dog", 0.9, (0.1, 0.1, 0.5, 0.5)), Sight("cut", "", 1.0), Sight("text", "EXIT", 0.9)


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        ([[DOG], [READ], [UNSURE]], None),
        ([[DOG, UNSURE], [UNSURE, DOG]], None),
        ([[BLACK], [BLACK]], "the picture is black, nothing in it was recognised"),
        ([[DARK], [CUT, DARK], [UNSURE]], "the picture is dark, nothing in it was recognised"),
        ([[UNSURE], [CUT, UNSURE]], "nothing in the picture was recognised"),
        ([[], []], "nothing in the picture was recognised"),
        ([[DOG], [BLACK], [BLACK]], "nothing was recognised in 2 of 3 frames, mostly because they are black"),
        ([[DOG], [UNSURE], []], "nothing was recognised in 2 of 3 frames"),
        ([], None),
    ],
)
def test_why_little_is_known_of_the_picture_is_told_in_one_line(frames, told):
    info = MediaInfo(Path("clip.mp4"), "mov", 3.0, False, 64, 48, 25.0, "h264", ())
    clip = ClipSummary(info, (0.0, 3.0), tuple(float(k) for k in range(len(frames))), False)
    seen = SeenFeatures(tuple(map(tuple, frames)), torch.arange(len(frames)).double(), 1.0)
    assert unrecognised(clip, seen) == ([] if told is None else [f"clip.mp4: {told}"])
    assert unrecognised(clip, VideoFeatures(torch.zeros(1, 2, 2, 3), torch.zeros(1), 1.0)) == []
    assert unrecognised(clip, None) == []
