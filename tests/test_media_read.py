"""Files to clips: the right pictures at the right times, the sound where it belongs. Content is checked, not shapes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import media_samples as samples
import numpy as np
import pytest
from media_samples import SMALL, X264, each_ffmpeg, number_of, onset_s, pitch_hz
from PIL import Image, ImageOps

from epcli.errors import MediaError, UsageError
from epcli.media import decode, sampling
from epcli.media.ffmpeg import Deadline
from epcli.media.probe import inspect, probe
from epcli.media.read import read
from epcli.media.upright import of_picture_file
from epcli.records import SAMPLE_RATE, Clip

__all__ = ["each_ffmpeg"]  # a fixture

SLOW = pytest.mark.slow  # the rarer half of a table
CODECS = {  # name: (picture, sound)
    "h264.mp4": (X264, ("aac",)),
    "h264.mkv": (X264, ("flac",)),
    "h264.mov": (X264, ("pcm_s16le",)),
    "h264.ts": (X264, ("aac",)),  # the encoder's run-in of 1024 samples is not marked as such
    "h264.flv": (X264, ("aac",)),
    "hevc.mkv": (("libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"), ("aac",)),
    "vp8.webm": (("libvpx", "-deadline", "realtime"), ("libvorbis",)),
    "vp9.webm": (("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"), ("libopus",)),
    "av1.mkv": (("libaom-av1", "-cpu-used", "8", "-usage", "realtime"), ("libopus",)),
    "mpeg4.avi": (("mpeg4", "-q:v", "2"), ("pcm_s16le",)),
    "theora.ogv": (("libtheora", "-q:v", "8"), ("libvorbis",)),
    "mjpeg.mov": (("mjpeg", "-q:v", "2"), ("pcm_s16le",)),
    "open groups.mkv": (
        ("libx264", "-x264-params", "open-gop=1:keyint=20:bframes=3:scenecut=0"),
        ("libmp3lame",),
    ),
    "mpeg2.mpg": (("mpeg2video", "-q:v", "2", "-dc", "10"), ("mp2",)),
}


def assert_counts(clip: Clip, start_s: float, why: str, offset_s: float = 0.0, rate: float = 25.0) -> None:
    """Each frame shows the number that its reported time calls for."""
    assert clip.frames is not None, why
    assert clip.frame_times_s is not None, why
    assert (np.diff(clip.frame_times_s) > 0).all(), f"{why}: times do not ascend: {clip.frame_times_s}"
    expected = np.round((clip.frame_times_s + start_s - offset_s) * rate) % 100
    got = np.array([number_of(frame) for frame in clip.frames])
    assert np.abs(got - expected).max() < 0.6, f"{why}: shows {got.round(1)}, its times say {expected}"


RARER = {"h264.mov", "h264.flv", "mjpeg.mov", "mpeg2.mpg", "vp8.webm"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[SLOW] if name in RARER else []) for name in CODECS])
def test_pictures_and_sound_are_found_at_their_times(name: str) -> None:
    assert_found_at_their_times(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CODECS)
def test_either_ffmpeg_finds_pictures_and_sound_at_their_times(name: str, each_ffmpeg: str) -> None:
    assert_found_at_their_times(name)


def assert_found_at_their_times(name: str) -> None:
    film = samples.shared_film(name, *CODECS[name])
    offset = samples.offset_s(film)
    whole = read(film, SMALL)
    assert whole.warnings == ()
    assert whole.frames is not None
    assert whole.frame_times_s is not None
    assert whole.samples is not None
    assert whole.frames.shape == (6, 48, 64, 3)
    assert (whole.frames.dtype, whole.samples.dtype) == (np.uint8, np.float32)
    assert_counts(whole, 0.0, name, offset)
    centres = (np.arange(6) + 0.5) / 6 * whole.duration_s
    assert np.abs(whole.frame_times_s - centres).max() <= 0.08  # two frames: libtheora calls every other a keyframe
    assert onset_s(whole.samples) == pytest.approx(samples.ONSET_S + offset, abs=0.02)
    assert pitch_hz(whole.samples[26_000:]) == pytest.approx(440, abs=2)
    assert len(whole.samples) == pytest.approx(3 * SAMPLE_RATE, abs=0.06 * SAMPLE_RATE)

    part = read(film, SMALL, start_s=1.2, end_s=2.6)
    assert part.samples is not None
    assert part.frames is not None
    assert part.range_s == (1.2, 2.6)
    assert len(part.frames) == 3
    assert_counts(part, 1.2, f"{name} from 1.2 s", offset)
    assert onset_s(part.samples) == pytest.approx(samples.ONSET_S + offset - 1.2, abs=0.02)
    assert len(part.samples) == pytest.approx(1.4 * SAMPLE_RATE, abs=50)


def test_theora_is_decoded_by_one_thread() -> None:
    """With more, ffmpeg shows a wrong frame about every tenth time on a busy machine: too seldom for a test to see."""
    threads = {
        name: inspect(samples.shared_film(name, *CODECS[name]), Deadline(60)).threads
        for name in ("theora.ogv", "h264.mp4")
    }
    assert threads == {"theora.ogv": 1, "h264.mp4": 0}


@pytest.mark.parametrize(
    "name",
    [
        *("h264.mp4", "h264.ts", "vp9.webm", "open groups.mkv"),
        *(pytest.param(name, marks=SLOW) for name in ("h264.mkv", "hevc.mkv", "mpeg4.avi", "theora.ogv", "mpeg2.mpg")),
    ],
)
def test_seeking_finds_the_same_pixels_as_decoding_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    video, audio = CODECS[name]
    film = samples.shared_film(name, video, audio)
    three = replace(SMALL, fps=1.0, audio=False)
    monkeypatch.setattr(sampling, "KEYFRAMES_SUFFICE", 2.0)  # never take keyframes instead
    monkeypatch.setattr(decode, "EXACT_GAP_S", 1e9)
    decoded = read(film, three)
    monkeypatch.setattr(decode, "EXACT_GAP_S", 0.0)
    sought = read(film, three)
    assert decoded.frames is not None
    assert len(decoded.frames) == 3
    np.testing.assert_array_equal(np.array(sought.frame_times_s), np.array(decoded.frame_times_s))
    np.testing.assert_array_equal(np.array(sought.frames), decoded.frames)
    assert sought.warnings == ()


@pytest.mark.parametrize(
    "name", ["h264.ts", "theora.ogv", *(pytest.param(name, marks=SLOW) for name in ("h264.flv", "mpeg2.mpg"))]
)
def test_wide_intervals_of_a_format_without_index_show_frames_of_their_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = samples.shared_film(name, *CODECS[name])
    monkeypatch.setattr(sampling, "WINDOW_STEP_S", 0.5)
    monkeypatch.setattr(decode, "EXACT_GAP_S", 0.0)
    clip = read(film, replace(SMALL, fps=1.0, audio=False))
    assert_counts(clip, 0.0, name, samples.offset_s(film))
    assert clip.frame_times_s is not None
    assert np.floor(clip.frame_times_s / clip.duration_s * 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("gap_s", [0.0, 1e9], ids=["by seeking", "in one pass"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_coarse_sampling_takes_keyframes_and_tells_their_times(
    suffix: str, gap_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = samples.shared_film(f"gop.{suffix}", (*X264, "-g", "25", "-sc_threshold", "0"), (), length=10)
    monkeypatch.setattr(decode, "KEYFRAME_GAP_S", gap_s)
    clip = read(film, replace(SMALL, max_frames=9))
    assert clip.frame_times_s is not None
    assert clip.frame_times_s.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]  # intervals begin at n * 1.11 s
    assert_counts(clip, 0.0, suffix)


@pytest.mark.slow
def test_an_hour_of_picture_costs_only_the_frames_sampled(tmp_path: Path) -> None:
    hour = tmp_path / "hour.mkv"
    second = samples.shared_film("gop.mp4", (*X264, "-g", "25", "-sc_threshold", "0"), (), 10)
    samples.run("-stream_loop", "-1", "-i", second, "-t", "3600", "-c", "copy", hour)
    clip = read(hour, replace(SMALL, max_frames=6))
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert clip.frames.shape == (6, 48, 64, 3)
    assert np.abs(clip.frame_times_s - (np.arange(6) + 0.5) / 6 * clip.duration_s).max() <= 0.04


def test_one_short_look_into_a_film_yields_one_frame_and_its_sound() -> None:
    clip = read(samples.shared_film("h264.mp4", *CODECS["h264.mp4"]), SMALL, start_s=2.0, end_s=2.02)
    assert clip.frames is not None
    assert clip.samples is not None
    assert len(clip.frames) == 1
    assert number_of(clip.frames[0]) == pytest.approx(50, abs=0.6)
    assert len(clip.samples) == 320


# ---- what is in the picture


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_metadata_turns_the_picture(degrees: int, each_ffmpeg: str, tmp_path: Path) -> None:
    flat = tmp_path / "flat.mp4"
    samples.run("-f", "lavfi", "-i", samples.RED_BLUE, "-c:v", X264[0], "-pix_fmt", "yuv420p", flat)
    clip = read(samples.rotated(flat, tmp_path / "turned.mp4", degrees), SMALL)
    assert clip.frames is not None
    frame = clip.frames[0]
    assert frame.shape == ((48, 64, 3) if degrees == 180 else (64, 48, 3))
    sides = {90: ((-4, 24), (3, 24)), 180: ((24, -4), (24, 3)), 270: ((3, 24), (-4, 24))}
    red, blue = (frame[place] for place in sides[degrees])  # where left and right went
    assert red[0] > 200 > 60 > red[2], f"{degrees}: no red where the left side went"
    assert blue[2] > 200 > 60 > blue[0], f"{degrees}: no blue where the right side went"


INNER = (slice(6, -6, 12), slice(6, -6, 12))  # away from the borders between the colours, which JPEG and WebP blur


def photo(path: Path, orientation: int) -> tuple[np.ndarray, np.ndarray]:
    """Write a photo with EXIF data; the picture as it is stored, and upright in Pillow's opinion."""
    picture = Image.new("RGB", (64, 48), "red")
    picture.paste((0, 0, 255), (32, 0, 64, 48))
    picture.paste((0, 255, 0), (0, 0, 32, 24))
    exif = Image.Exif()
    exif[0x112] = orientation
    picture.save(path, exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    return np.asarray(picture).astype(int), np.asarray(upright).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation_tells_how_to_turn_and_mirror(suffix: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    stored, upright = photo(path, orientation)
    turned = of_picture_file(path, {"jpg": "jpeg_pipe"}.get(suffix, f"{suffix}_pipe")).apply(stored)
    assert turned.shape == upright.shape
    assert np.abs(turned - upright)[INNER].max() < 40


@pytest.mark.parametrize(("suffix", "orientation"), [("jpg", 6), ("jpg", 7), ("webp", 8)])
def test_a_photo_comes_out_upright(suffix: str, orientation: int, each_ffmpeg: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    _, upright = photo(path, orientation)
    clip = read(path, SMALL)
    assert clip.frames is not None
    assert clip.frames[0].shape == upright.shape
    assert np.abs(clip.frames[0].astype(int) - upright)[INNER].max() < 40


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_a_still_picture_is_one_frame_at_time_0_without_sound(suffix: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 48), (255, 0, 0))
    picture.paste((0, 0, 255), (32, 0, 64, 48))
    path = tmp_path / f"still.{suffix}"
    picture.save(path)
    clip = read(path, SMALL)
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert clip.samples is None
    assert clip.range_s == (0.0, 0.0)
    assert clip.frame_times_s.tolist() == [0.0]
    assert np.abs(clip.frames[0, 24, 5].astype(int) - (255, 0, 0)).max() < 10
    assert np.abs(clip.frames[0, 24, -5].astype(int) - (0, 0, 255)).max() < 10


def test_an_animation_shows_its_frames_in_time(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (64, 48), (20 * n, 20 * n, 20 * n)) for n in range(10)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, loop=0)
    clip = read(path, SMALL)
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert clip.frame_times_s.tolist() == pytest.approx([0.2, 0.6, 1.2, 1.6])
    assert [round(frame.mean() / 20) for frame in clip.frames] == [1, 3, 6, 8]


def test_odd_sizes_and_other_shapes_of_pixels_are_scaled_to_what_is_shown(tmp_path: Path) -> None:
    odd, wide = tmp_path / "odd.webm", tmp_path / "wide.mkv"
    samples.need("libvpx")
    samples.run("-f", "lavfi", "-i", "testsrc=size=321x177:rate=5:duration=1", "-c:v", "libvpx", odd)
    assert (probe(odd).width, probe(odd).height) == (321, 177)
    clip = read(odd, replace(SMALL, max_pixels=105_369, multiple=28))
    assert clip.frames is not None
    assert clip.frames.shape[1:] == (224, 420, 3)
    samples.run("-f", "lavfi", "-i", samples.RED_BLUE, "-vf", "setsar=2", "-c:v", "mpeg4", "-q:v", "2", wide)
    clip = read(wide, replace(SMALL, max_pixels=128 * 48))
    assert clip.frames is not None
    assert clip.frames.shape[1:] == (48, 128, 3)
    assert clip.frames[0, 24, 50, 0] > 200 > 60 > clip.frames[0, 24, 50, 2], "red should reach to the middle, x = 64"


@pytest.mark.parametrize("codec", [X264, ("libx265", "-preset", "ultrafast", "-x265-params", "log-level=none")])
def test_ten_bits_and_full_range_come_out_as_the_same_grey(codec: tuple[str, ...], tmp_path: Path) -> None:
    samples.need(codec[0])
    deep = tmp_path / "deep.mp4"
    samples.run("-f", "lavfi", "-i", samples.counting(1), "-c:v", *codec, "-pix_fmt", "yuv420p10le", deep)
    assert_counts(read(deep, SMALL), 0.0, "10 bit")
    full = tmp_path / "full.mkv"
    samples.run(
        "-f",
        "lavfi",
        "-i",
        samples.counting(1),
        "-vf",
        "scale=out_range=full",
        "-c:v",
        "mjpeg",
        "-q:v",
        "1",
        "-pix_fmt",
        "yuvj420p",
        full,
    )
    assert_counts(read(full, SMALL), 0.0, "full range")


# ---- when


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_picture_that_stays_on_screen_stands_in_each_interval_it_covers(suffix: str, tmp_path: Path) -> None:
    steady, slide = tmp_path / "steady.mkv", tmp_path / f"slide.{suffix}"
    # Frames 0 to 22 (until 0.88 s), then nothing new until frame 63 (2.52 s).
    chosen = ("-vf", "select='lt(n,23)+gt(n,62)'")
    samples.run("-f", "lavfi", "-i", samples.counting(3), *chosen, "-c:v", *X264, steady)
    samples.run("-i", steady, "-c", "copy", slide)
    clip = read(slide, SMALL)
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert [round(number_of(frame)) for frame in clip.frames] == [6, 18, 22, 22, 22, 68]
    assert clip.frame_times_s.tolist() == pytest.approx([0.24, 0.72, 1.0, 1.5, 2.0, 2.72])


def test_sampling_faster_than_the_film_repeats_its_frames_at_ascending_times(tmp_path: Path) -> None:
    slow = tmp_path / "slow.mkv"
    samples.run("-f", "lavfi", "-i", samples.counting(4, rate=1), "-c:v", *X264, slow)
    clip = read(slow, SMALL)
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert [round(number_of(frame)) for frame in clip.frames] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert clip.frame_times_s.tolist() == pytest.approx(np.arange(8) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "mkv", pytest.param("mov", marks=SLOW)])
def test_sound_that_starts_after_the_picture_is_led_in_by_silence(suffix: str, tmp_path: Path) -> None:
    film = tmp_path / f"late sound.{suffix}"
    picture, sound = samples.counting(3), samples.tone(3)
    samples.run(
        *("-f", "lavfi", "-i", picture, "-itsoffset", "1", "-f", "lavfi", "-i", sound),
        *("-c:v", *X264, "-c:a", "flac" if suffix == "mkv" else "aac", film),
    )
    whole = read(film, SMALL)
    assert whole.samples is not None
    assert onset_s(whole.samples) == pytest.approx(2.5, abs=0.02)
    assert_counts(whole, 0.0, suffix)
    assert whole.frames is not None
    assert len(whole.frames) == 6  # the picture is over after 3 of 4 seconds
    assert any("have no picture" in warning for warning in whole.warnings)
    across = read(film, SMALL, start_s=0.5, end_s=3.0)  # the track begins within this range
    assert across.samples is not None
    assert onset_s(across.samples) == pytest.approx(2.0, abs=0.02)
    inside = read(film, SMALL, start_s=1.7)
    assert inside.samples is not None
    assert onset_s(inside.samples) == pytest.approx(0.8, abs=0.02)
    before = read(film, SMALL, end_s=0.8)
    assert before.samples is None
    assert any("no sound from 0:00 to 0:00.8" in warning for warning in before.warnings)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_picture_that_starts_after_the_sound_has_no_frames_before(suffix: str, tmp_path: Path) -> None:
    both, film = tmp_path / "both.mkv", tmp_path / f"late picture.{suffix}"
    picture, sound = samples.counting(3), samples.tone(3)
    samples.run(
        *("-itsoffset", "1.2", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound),
        *("-c:v", *X264, "-c:a", "flac", both),
    )
    samples.run("-i", both, "-c", "copy", "-strict", "-2", film)
    clip = read(film, SMALL)
    assert clip.samples is not None
    assert clip.frame_times_s is not None
    assert onset_s(clip.samples) == pytest.approx(samples.ONSET_S, abs=0.02)
    assert clip.frame_times_s[0] >= 1.19
    assert_counts(clip, 0.0, suffix, offset_s=1.2)
    early = read(film, SMALL, end_s=1.0)
    assert early.frames is None
    assert early.samples is not None
    assert any("shows no picture from 0:00 to 0:01" in warning for warning in early.warnings)
    with pytest.raises(MediaError, match="nothing is seen or heard from 0:00 to 0:01"):
        read(film, replace(SMALL, audio=False), end_s=1.0)


def test_a_file_whose_times_do_not_start_at_zero_is_read_from_its_start(each_ffmpeg: str, tmp_path: Path) -> None:
    for suffix in ("mkv", "ts"):
        film = tmp_path / f"late.{suffix}"
        samples.run(
            *("-f", "lavfi", "-i", samples.counting(3), "-f", "lavfi", "-i", samples.tone(3)),
            *("-c:v", *X264, "-c:a", "mp2", "-output_ts_offset", "7", film),
        )
        offset = 0.0 if suffix == "mkv" else 0.01
        clip = read(film, SMALL, start_s=1.0)
        assert clip.samples is not None
        assert_counts(clip, 1.0, suffix, offset)
        assert onset_s(clip.samples) == pytest.approx(samples.ONSET_S - 1.0, abs=0.03)


# ---- sound


@pytest.mark.parametrize(
    ("name", "options", "amplitude"),
    [
        ("plain.wav", (), 0.5),
        ("eight bits.wav", ("-c:a", "pcm_u8"), 0.5),
        pytest.param("24 bits.wav", ("-c:a", "pcm_s24le"), 0.5, marks=SLOW),
        pytest.param("float.wav", ("-c:a", "pcm_f32le"), 0.5, marks=SLOW),
        ("8 kHz.wav", ("-ar", "8000"), 0.5),
        ("96 kHz.flac", ("-ar", "96000"), 0.5),
        ("plain.mp3", ("-c:a", "libmp3lame"), 0.5),
        pytest.param("no table.mp3", ("-c:a", "libmp3lame", "-write_xing", "0"), 0.5, marks=SLOW),
        pytest.param("plain.flac", (), 0.5, marks=SLOW),
        ("plain.m4a", ("-c:a", "aac"), 0.5),
        pytest.param("plain.ogg", ("-c:a", "libvorbis"), 0.5, marks=SLOW),
        ("plain.opus", ("-c:a", "libopus"), 0.5),
        pytest.param("plain.aac", ("-c:a", "aac"), 0.5, marks=SLOW),
        pytest.param("plain.aiff", (), 0.5, marks=SLOW),
        ("left only.wav", ("-af", "pan=stereo|c0=c0|c1=0*c0"), 0.25),
        pytest.param("both sides.wav", ("-af", "pan=stereo|c0=c0|c1=c0"), 0.5, marks=SLOW),
        ("six channels.flac", ("-af", "pan=5.1|c0=c0|c1=c0|c2=c0|c3=0*c0|c4=c0|c5=c0"), 0.5),
    ],
)
def test_every_kind_of_sound_becomes_16_khz_mono_at_its_time(
    name: str, options: tuple[str, ...], amplitude: float, tmp_path: Path
) -> None:
    samples.need(*(option for option in options if option.startswith("lib")))
    path = tmp_path / name
    samples.run("-f", "lavfi", "-i", samples.tone(3), *options, path)
    clip = read(path, SMALL)
    assert clip.frames is None
    assert clip.frame_times_s is None
    assert clip.samples is not None
    assert not clip.info.has_video
    # Raw AAC and MP3 without a table do not tell the encoder's run-in, of up to 1105 samples.
    assert onset_s(clip.samples) == pytest.approx(samples.ONSET_S, abs=0.025)
    assert pitch_hz(clip.samples[26_000:]) == pytest.approx(440, abs=2)
    steady = clip.samples[28_000:44_000]
    assert np.sqrt(2 * np.mean(steady.astype(np.float64) ** 2)) == pytest.approx(amplitude, rel=0.05)
    assert np.abs(clip.samples[:22_000]).max() < 0.02, "silence before the tone"

    part = read(path, SMALL, start_s=1.2, end_s=2.2)
    assert part.samples is not None
    assert len(part.samples) == pytest.approx(SAMPLE_RATE, abs=2)
    assert onset_s(part.samples) == pytest.approx(onset_s(clip.samples) - 1.2, abs=0.003)


def test_loud_stereo_stays_within_one(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    samples.run("-f", "lavfi", "-i", "aevalsrc=sgn(sin(2*PI*440*t))|sgn(sin(2*PI*440*t)):s=44100:d=1", path)
    clip = read(path, SMALL)
    assert clip.samples is not None
    assert 0.95 < np.abs(clip.samples).max() <= 1.0


def test_a_gap_in_the_sound_stays_a_gap(tmp_path: Path) -> None:
    film = tmp_path / "gap.mkv"
    samples.run(
        *("-f", "lavfi", "-i", "sine=frequency=440:duration=4:sample_rate=48000"),
        *("-af", "aselect='lt(t,1)+gt(t,3)'", "-c:a", "pcm_s16le", film),
    )
    clip = read(film, SMALL)
    assert clip.samples is not None
    loud = np.abs(clip.samples) > 0.05
    assert loud[: int(0.9 * SAMPLE_RATE)].mean() > 0.4
    assert not loud[int(1.1 * SAMPLE_RATE) : int(2.9 * SAMPLE_RATE)].any()
    assert loud[int(3.1 * SAMPLE_RATE) : int(3.9 * SAMPLE_RATE)].mean() > 0.4


def test_the_chosen_track_is_heard_and_a_missing_one_is_named(tmp_path: Path) -> None:
    film = tmp_path / "tracks.mkv"
    samples.run(
        *("-f", "lavfi", "-i", samples.tone(3), "-f", "lavfi", "-i", samples.tone(3, pitch=880)),
        *("-f", "lavfi", "-i", samples.counting(3), "-map", "0", "-map", "2", "-map", "1", "-c:v", *X264, film),
    )
    for track, pitch in ((0, 440), (1, 880)):
        clip = read(film, replace(SMALL, audio_track=track))
        assert clip.samples is not None
        assert pitch_hz(clip.samples[26_000:]) == pytest.approx(pitch, abs=2)
    for track in (2, -1):
        with pytest.raises(MediaError, match=rf"no audio track {track}; it has 2, numbered 0 to 1"):
            read(film, replace(SMALL, audio_track=track))


# ---- what is asked for


def test_a_silent_film_has_no_samples_and_no_second_track() -> None:
    silent = samples.shared_film("silent.mp4", X264, ())
    clip = read(silent, SMALL)
    assert clip.samples is None
    assert clip.frames is not None
    assert clip.warnings == ()
    with pytest.raises(MediaError, match="no audio track 1; it has 0"):
        read(silent, replace(SMALL, audio_track=1))
    with pytest.raises(MediaError, match="has picture but no sound, and picture is switched off"):
        read(silent, replace(SMALL, video=False))


def test_what_is_switched_off_is_not_decoded() -> None:
    film = samples.shared_film("plain.mp4")
    assert read(film, replace(SMALL, audio=False)).samples is None
    heard = read(film, replace(SMALL, video=False))
    assert heard.frames is None
    assert heard.samples is not None
    assert read(film, replace(SMALL, audio=False, audio_track=7)).frames is not None


@pytest.mark.parametrize(
    ("start", "end", "error", "says"),
    [
        (2.0, 2.0, UsageError, "ends .2 s. before it starts .2 s.; the file is 0:03 long"),
        (2.0, 1.0, UsageError, "ends .1 s. before it starts .2 s.; the file is 0:03 long"),
        (-1.0, None, UsageError, "before the file begins; the file is 0:03 long"),
        (float("nan"), None, UsageError, "before the file begins"),
        (3.5, None, MediaError, "start at 0:03.5 is past the end; the file is 0:03 long"),
        (60.0, 70.0, MediaError, "start at 1:00 is past the end; the file is 0:03 long"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused_with_the_length(
    start: float, end: float | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        read(samples.shared_film("plain.mp4"), SMALL, start_s=start, end_s=end)


def test_an_end_behind_the_file_is_its_end_with_a_warning() -> None:
    clip = read(samples.shared_film("plain.mp4"), SMALL, start_s=1.0, end_s=100.0)
    assert clip.range_s == pytest.approx((1.0, 3.0))
    assert clip.warnings == ("plain.mp4: the end 1:40 is past the file's; using its end, 0:03",)


def test_a_still_picture_has_no_range_and_a_sampling_of_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "still.png"
    Image.new("RGB", (64, 48), "red").save(path)
    with pytest.raises(UsageError, match="still picture, which has no times"):
        read(path, SMALL, start_s=1.0)
    with pytest.raises(UsageError, match="must be above zero"):
        read(path, replace(SMALL, fps=0.0))
    with pytest.raises(UsageError, match="must be above zero"):
        read(path, replace(SMALL, max_frames=0))
    with pytest.raises(UsageError, match="both switched off"):
        read(path, replace(SMALL, video=False, audio=False))


def test_frames_are_evenly_spread_within_the_limit() -> None:
    film = samples.shared_film("plain.mp4")
    clip = read(film, replace(SMALL, fps=25.0, max_frames=9, audio=False))
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert len(clip.frames) == 9
    assert np.abs(np.diff(clip.frame_times_s) - 1 / 3).max() <= 0.041
    dense = read(film, replace(SMALL, fps=25.0, max_frames=1000, audio=False))
    assert dense.frames is not None
    assert [round(number_of(frame)) for frame in dense.frames] == list(range(75))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("with space.mp4", marks=SLOW),
        'it\'s "quoted".mp4',
        "-i.mp4",
        "new\nline.mp4",
        "%03d.mp4",
        pytest.param("käse 日本.mp4", marks=SLOW),
        pytest.param("a:b|c.mp4", marks=SLOW),
        pytest.param("[x],y;z=1.mp4", marks=SLOW),
        "pipe:0",
        os.fsdecode(b"not unicode \xff.mp4"),
    ],
)
def test_any_name_works_from_the_folder_itself(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(samples.shared_film("plain.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert_counts(read(name, replace(SMALL, audio=False), start_s=1.0), 1.0, repr(name))
    heard = read(name, replace(SMALL, video=False))
    assert heard.samples is not None
    assert onset_s(heard.samples) == pytest.approx(samples.ONSET_S, abs=0.02)


def test_a_numbered_picture_is_itself_and_not_a_series(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "%03d.png")
    Image.new("RGB", (64, 48), "blue").save(tmp_path / "001.png")
    clip = read(tmp_path / "%03d.png", SMALL)
    assert clip.frames is not None
    assert clip.frames[0, 24, 24].tolist() == [255, 0, 0]


def test_an_flv_whose_sound_begins_before_its_picture_shows_all_pictures(tmp_path: Path) -> None:
    path = tmp_path / "small.flv"
    picture = ("-f", "lavfi", "-i", samples.counting(3, 5), "-c:v", "flv1")
    samples.run("-f", "lavfi", "-i", samples.tone(3), *picture, "-c:a", "aac", path)
    clip = read(path, SMALL)
    assert clip.warnings == ()
    assert clip.frames is not None
    assert len(clip.frames) == 6
