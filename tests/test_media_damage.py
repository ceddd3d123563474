"""Files cut off or damaged: what is there is decoded and the rest is told; nothing fails silently or for ever."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import media_samples as samples
import numpy as np
import pytest
from media_samples import SMALL, X264, number_of, onset_s
from PIL import Image

from epcli.errors import CapacityError, MediaError
from epcli.media import ffmpeg
from epcli.media.decode import sound
from epcli.media.ffmpeg import Deadline, Process, source
from epcli.media.probe import inspect
from epcli.media.read import read
from epcli.records import SAMPLE_RATE

LONG = (*X264, "-g", "50")


def ten_seconds(suffix: str, *options: str) -> bytes:
    """A film of ten seconds, as bytes."""
    return film_of_ten_seconds(suffix, *options).read_bytes()


def film_of_ten_seconds(suffix: str, *options: str) -> Path:
    whole = samples.shared_film("ten.mkv", LONG, ("aac",), 10)
    film = samples.home() / f"copy{''.join(options)}.{suffix}"
    if not film.exists():
        samples.run("-i", whole, "-c", "copy", *options, film)
    return film


def garbled(data: bytes, begin: float, end: float) -> bytes:
    """The data with a part, given as fractions, replaced by noise."""
    first, last = int(len(data) * begin), int(len(data) * end)
    return data[:first] + random.Random(1).randbytes(last - first) + data[last:]


@pytest.mark.parametrize(
    ("suffix", "options", "keep"),
    [("mkv", (), 0.5), ("flv", (), 0.5), ("mp4", ("-movflags", "faststart"), 0.5), ("mkv", (), 0.25)],
)
def test_the_first_part_of_a_film_is_read_with_a_warning(
    suffix: str, options: tuple[str, ...], keep: float, tmp_path: Path
) -> None:
    data = ten_seconds(suffix, *options)
    path = tmp_path / f"half.{suffix}"
    path.write_bytes(data[: int(len(data) * keep)])
    clip = read(path, SMALL)
    assert 10 * keep - 1.5 < clip.duration_s < 10 * keep + 1.5
    (warning,) = clip.warnings
    assert "its header says 10." in warning
    assert "it seems cut off" in warning
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert clip.samples is not None
    assert abs(len(clip.frames) - 2 * clip.duration_s) <= 1
    offset = samples.offset_s(film_of_ten_seconds(suffix, *options))
    expected = np.round((clip.frame_times_s - offset) * 25) % 100
    assert np.abs([number_of(frame) for frame in clip.frames] - expected).max() < 0.6
    assert onset_s(clip.samples) == pytest.approx(samples.ONSET_S + offset, abs=0.025)


def test_a_film_cut_off_before_its_index_is_refused_saying_so(tmp_path: Path) -> None:
    data = ten_seconds("mp4")
    path = tmp_path / "half.mp4"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"half\.mp4: .*cut off before its index was written"):
        read(path, SMALL)


@pytest.mark.parametrize(
    ("suffix", "options"), [("mkv", ()), ("mp4", ("-movflags", "faststart")), ("ts", ()), ("mp4", ())]
)
def test_damage_in_the_middle_is_told_and_the_rest_is_read(
    suffix: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / f"scratched.{suffix}"
    path.write_bytes(garbled(ten_seconds(suffix, *options), 0.4, 0.6))
    clip = read(path, SMALL)
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert clip.samples is not None
    assert any("damaged" in warning for warning in clip.warnings), clip.warnings
    assert all(warning.startswith(f"{path.name}: ") for warning in clip.warnings)
    ends = (clip.frame_times_s < 3) | (clip.frame_times_s > 8.5)
    assert ends.sum() >= 8
    offset = samples.offset_s(film_of_ten_seconds(suffix, *options))
    expected = np.round((clip.frame_times_s - offset) * 25) % 100
    wrong = np.abs([number_of(frame) for frame in clip.frames] - expected) > 0.6
    assert not (wrong & ends).any(), "frames away from the damage are as they should be"
    assert onset_s(clip.samples) == pytest.approx(samples.ONSET_S + offset, abs=0.025)
    assert np.abs(clip.samples[int(8.6 * SAMPLE_RATE) : int(9.6 * SAMPLE_RATE)]).max() > 0.3, "sound after the damage"


def test_a_film_of_which_nothing_can_be_decoded_is_an_error_and_not_empty(tmp_path: Path) -> None:
    data = ten_seconds("mp4")  # its index is at the end and stays whole
    index = data.index(b"moov") / len(data)
    path = tmp_path / "noise.mp4"
    path.write_bytes(garbled(data, 48 / len(data), index - 0.001))
    with pytest.raises(MediaError, match=r"noise\.mp4: no picture could be decoded \(.+\)"):
        read(path, replace(SMALL, audio=False))
    with pytest.raises(MediaError, match=r"noise\.mp4: no sound could be decoded \(.+\)"):
        read(path, replace(SMALL, video=False))


def test_half_a_sound_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.flac", tmp_path / "half.flac"
    samples.run("-f", "lavfi", "-i", "anoisesrc=duration=10:sample_rate=48000:amplitude=0.3", whole)
    data = whole.read_bytes()
    half.write_bytes(data[: len(data) // 2])
    clip = read(half, SMALL)
    assert clip.samples is not None
    assert len(clip.samples) / SAMPLE_RATE == pytest.approx(5.0, abs=0.3)
    assert any("cut off" in warning for warning in clip.warnings)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_half_a_picture_is_shown_with_a_warning_or_refused(suffix: str, tmp_path: Path) -> None:
    whole, half, header = (tmp_path / f"{name}.{suffix}" for name in ("whole", "half", "header"))
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    data = whole.read_bytes()
    half.write_bytes(data[: len(data) * 2 // 3])
    header.write_bytes(data[:45])
    try:
        clip = read(half, SMALL)
    except MediaError as refusal:
        assert str(refusal).startswith(f"half.{suffix}: ")  # noqa: PT017 (either is right: decoders differ)
    else:
        assert any("damaged" in warning for warning in clip.warnings)
    with pytest.raises(MediaError, match=rf"header\.{suffix}: "):
        read(header, SMALL)


@pytest.mark.slow
def test_random_damage_never_ends_in_anything_but_a_clip_or_a_media_error(tmp_path: Path) -> None:
    generator = random.Random(2)
    film = bytearray(samples.shared_film("plain.mp4").read_bytes())
    index = film.index(b"moov")
    outcomes = set()
    for number in range(8):
        broken = bytearray(film)
        for _ in range((number + 1) ** 2):  # in the index, where it hurts
            broken[generator.randrange(index, len(broken))] = generator.randrange(256)
        path = tmp_path / "broken.mp4"
        path.write_bytes(broken)
        try:
            outcomes.add(type(read(path, replace(SMALL, max_frames=2), deadline_s=30.0)).__name__)
        except MediaError as refusal:
            assert len(str(refusal).splitlines()) == 1  # noqa: PT017
            outcomes.add("MediaError")
    assert outcomes == {"Clip", "MediaError"}, "both should have come up"


# ---- time limits


def test_a_decoder_that_does_not_end_is_stopped_at_the_deadline() -> None:
    film = samples.shared_film("ten.mkv", LONG, ("aac",), 10)
    endless = source("matroska", re=None)["0"].output("pipe:1", format="nut", vcodec="rawvideo")  # at playing speed
    start = time.monotonic()
    with Process(endless, film, Deadline(0.5)) as process:
        while process.stdout.read(1 << 16):
            pass
        with pytest.raises(MediaError, match=r"ten\.mkv: reading did not finish within 0\.5 s"):
            process.finish()
    assert time.monotonic() - start < 9  # it would take 10


def test_an_abandoned_decoder_is_not_left_running() -> None:
    film = samples.shared_film("ten.mkv", LONG, ("aac",), 10)
    endless = source("matroska", re=None)["0"].output("pipe:1", format="nut", vcodec="rawvideo")
    with Process(endless, film, Deadline(60)) as process:
        process.stdout.read(10)
        assert process._child.poll() is None
    assert process._child.poll() is not None


def test_an_interrupt_stops_the_decoders_of_other_threads() -> None:
    film = samples.shared_film("ten.mkv", LONG, ("aac",), 10)
    endless = source("matroska", re=None)["0"].output("pipe:1", format="nut", vcodec="rawvideo")
    deadline = Deadline(60)
    start = time.monotonic()
    with Process(endless, film, deadline) as process:
        deadline.stop()
        process.stdout.read()
        process.finish()
    assert process.status != 0
    assert deadline.remaining() == 0
    assert time.monotonic() - start < 9  # it would take 10


def test_a_length_beyond_all_memory_is_a_capacity_error() -> None:
    film = samples.shared_film("plain.mp4")
    with pytest.raises(CapacityError, match=r"plain\.mp4: 277777778 hours of sound do not fit in memory"):
        sound(inspect(film, Deadline(60)), 0, 0.0, 1e12, Deadline(60))


def test_the_whole_call_keeps_to_the_deadline_while_parsing_too() -> None:
    with pytest.raises(MediaError, match=r"did not finish within 0 s; .*--start, --end"):
        read(samples.shared_film("plain.mp4"), SMALL, deadline_s=0.0)


# ---- the program


def test_the_systems_ffmpeg_comes_first_and_the_wheels_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "ffmpeg"
    own.symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ffmpeg.find().path == str(own)
    own.unlink()
    assert ffmpeg.find().path == imageio_ffmpeg.get_ffmpeg_exe()
    assert ffmpeg.find().numbers >= (4, 0)


def no_wheel() -> str:
    raise RuntimeError("No ffmpeg exe could be found.")


def not_ffmpeg(folder: Path) -> None:
    (folder / "ffmpeg").write_text("#!/bin/sh\nexit 3\n")
    (folder / "ffmpeg").chmod(0o755)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda folder: None, "ffmpeg was not found; install it, or run: pip install imageio-ffmpeg"),
        (not_ffmpeg, "does not run as ffmpeg"),
    ],
)
def test_a_missing_or_broken_ffmpeg_is_one_clear_line(
    prepare: Callable[[Path], None], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = samples.shared_film("plain.mp4")
    prepare(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", no_wheel)
    with pytest.raises(MediaError, match=says):
        read(film, SMALL)


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("5.1.9-0+deb12u1", (5, 1)),
        ("n9.0.2-17-g2a571b6068-20260930", (9, 0)),
        ("4.4.2-0ubuntu0.22.04.1", (4, 4)),
        ("N-118000-gabcdef", (99, 0)),  # built from git: new
    ],
)
def test_versions_are_told_apart(version: str, numbers: tuple[int, int]) -> None:
    assert ffmpeg.Binary("ffmpeg", version).numbers == numbers


def test_an_old_ffmpeg_is_asked_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    output = source("mov")["0"].output("pipe:1", fps_mode="passthrough")
    for version, flag in (("4.4.2", "-vsync"), ("5.1", "-fps_mode")):
        monkeypatch.setattr(ffmpeg, "find", lambda version=version: ffmpeg.Binary("ffmpeg", version))
        args = ffmpeg.command(output, Path("a.mp4"))
        assert args[args.index("passthrough") - 1] == flag


# ---- what is no damage


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF])
def test_a_wav_that_was_written_to_a_pipe_is_not_damaged(size: int, tmp_path: Path) -> None:
    path = tmp_path / "piped.wav"
    samples.run("-f", "lavfi", "-i", samples.tone(2.05, 16000), path)
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + size.to_bytes(4, "little") + data[at + 4 :])
    clip = read(path, SMALL)
    assert clip.duration_s == pytest.approx(2.05, abs=0.01)
    assert clip.warnings == ()


def test_a_caf_without_a_length_is_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "piped.caf"
    samples.run("-f", "lavfi", "-i", samples.tone(2.05, 16000), path)
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])
    assert read(path, SMALL).warnings == ()


@pytest.mark.parametrize("suffix", ["wav", "w64", "caf", "wma", "mp3"])
def test_sound_that_is_cut_off_is_told(suffix: str, tmp_path: Path) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    samples.run("-f", "lavfi", "-i", samples.tone(4, 16000), whole)
    assert read(whole, SMALL).warnings == ()
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    assert "it seems cut off" in read(path, SMALL).warnings[0]


@pytest.mark.parametrize("suffix", ["wav", "w64", "caf", "wma"])
def test_what_follows_the_sound_is_not_taken_for_more_of_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"long.{suffix}"
    samples.run("-f", "lavfi", "-i", samples.tone(4, 16000), path)
    path.write_bytes(path.read_bytes() + b"garbage behind the end " * 4)
    assert not any("cut off" in warning for warning in read(path, SMALL).warnings)


def test_a_picture_without_a_keyframe_is_told(tmp_path: Path) -> None:
    path = tmp_path / "late.ts"
    samples.film(tmp_path / "whole.ts", (*X264, "-g", "500"), ("mp2",), 4.0)
    data = (tmp_path / "whole.ts").read_bytes()
    path.write_bytes(data[len(data) // 376 * 188 :])
    assert read(path, SMALL).warnings == (
        "late.ts: the picture has no keyframe, so that it cannot be shown; only the sound is read",
    )


def test_an_avi_that_was_written_to_a_pipe_is_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "piped.avi"
    samples.run("-i", samples.shared_film("plain.mp4"), "-c:v", "mpeg4", "-c:a", "libmp3lame", "-seekable", "0", path)
    assert read(path, SMALL).warnings == ()


def test_a_header_that_points_beyond_any_file_is_one_clear_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "far.caf"
    samples.run("-f", "lavfi", "-i", samples.tone(2, 16000), path)
    path.write_bytes(path.read_bytes() + b"data" + b"\x7f" + b"\xff" * 7 + b"." * 100)
    with suppress(MediaError):
        read(path, SMALL)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("broken", ["v", "a"])
def test_only_the_damage_of_what_is_read_is_told(suffix: str, broken: str, tmp_path: Path) -> None:
    path = tmp_path / f"noisy.{suffix}"
    film = samples.shared_film("plain.mkv")
    amount = {"v": 500, "a": 50}[broken]
    samples.run("-v", "quiet", "-i", film, "-c", "copy", f"-bsf:{broken}", f"noise=amount={amount}", path)
    seen, heard = (read(path, replace(SMALL, **{other: False})) for other in ("audio", "video"))
    damaged = [any("damaged" in warning for warning in clip.warnings) for clip in (seen, heard)]
    assert damaged == [broken == "v", broken == "a"], (seen.warnings, heard.warnings)


OPEN = ("libx264", "-x264-params", "open-gop=1:keyint=25:bframes=2")


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        (OPEN, "ts"),
        (OPEN, "mpg"),
        (("libx265", "-x265-params", "keyint=25:log-level=none"), "ts"),
        (("mpeg2video", "-g", "25", "-bf", "2"), "ts"),
        (("mpeg2video", "-g", "25", "-bf", "2"), "mpg"),
    ],
)
def test_a_recording_that_begins_between_keyframes_is_not_damaged(
    codec: tuple[str, ...], suffix: str, tmp_path: Path
) -> None:
    samples.need(codec[0])
    path, cut = tmp_path / "whole.ts", tmp_path / "cut.ts"
    samples.film(path, codec, ("mp2",), 4.0)
    data = path.read_bytes()
    cut.write_bytes(data[len(data) // 188 // 3 * 188 :])
    if suffix != "ts":
        cut = cut.with_suffix(f".{suffix}")
        samples.run("-v", "quiet", "-i", path.with_name("cut.ts"), "-c", "copy", "-copyinkf", cut)
    clip = read(cut, SMALL)
    assert not any("damage" in warning or "decoded" in warning for warning in clip.warnings), clip.warnings
    assert clip.frames is not None
    assert clip.samples is not None
    assert clip.frame_times_s is not None
    shift = np.array([number_of(frame) for frame in clip.frames]) - 25 * clip.frame_times_s
    assert np.ptp(shift) < 1.2, "the right pictures"


def test_damage_in_a_recording_that_begins_between_keyframes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cut.ts"
    data = ten_seconds("ts")
    path.write_bytes(garbled(data[len(data) // 188 // 8 * 188 :], 0.4, 0.6))
    assert any("damaged" in warning for warning in read(path, SMALL).warnings)


# ---- what cannot be read, and what is not as it should be


@pytest.mark.parametrize("suffix", ["mp4", "m4a"])
def test_an_encrypted_file_is_refused_saying_so(suffix: str, tmp_path: Path) -> None:
    path, key = tmp_path / f"locked.{suffix}", "0123456789abcdef0123456789abcdef"
    lock = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", key)
    picture = ("-vn",) if suffix == "m4a" else ()
    samples.run("-i", samples.shared_film("plain.mp4"), "-c", "copy", *picture, *lock, "-f", "mp4", path)
    with pytest.raises(MediaError, match=rf"locked\.{suffix}: encrypted, cannot be read"):
        read(path, SMALL)


def test_a_scrambled_recording_of_television_is_refused_saying_so(tmp_path: Path) -> None:
    path = tmp_path / "pay.ts"
    data = bytearray(ten_seconds("ts"))
    for at in range(0, len(data), 188):
        if (data[at + 1] & 0x1F) and not data[at + 1] & 0x40:
            data[at + 3] |= 0x80
            data[at + 4 : at + 188] = random.Random(at).randbytes(184)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"pay\.ts: encrypted, cannot be read"):
        read(path, SMALL)


def test_an_avi_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    samples.film(tmp_path / "whole.avi", ("mpeg4",), ("libmp3lame",), 6.0)
    data = (tmp_path / "whole.avi").read_bytes()
    assert read(tmp_path / "whole.avi", SMALL).warnings == ()
    path.write_bytes(data[: len(data) // 2])
    (warning,) = read(path, SMALL).warnings
    assert "its header says 6.0 s; it seems cut off" in warning


@pytest.mark.parametrize("suffix", ["mkv", "flv", "mp4", "ts"])
@pytest.mark.parametrize("also_sound", [True, False])
def test_time_stamps_that_stand_still_are_told(suffix: str, also_sound: bool, tmp_path: Path) -> None:
    path = tmp_path / f"stuck.{suffix}"
    still = ("-bsf:v", "setts=ts=0", *(("-bsf:a", "setts=ts=0") if also_sound else ()))
    samples.run("-i", samples.shared_film("plain.mp4"), "-c", "copy", *still, path)
    try:
        told = read(path, SMALL).warnings[0]
    except MediaError as problem:
        told = str(problem)
    assert "all time stamps of its picture are the same; count them anew" in told


def test_sound_whose_time_stamps_stand_still_is_told(tmp_path: Path) -> None:
    path = tmp_path / "stuck.mkv"
    samples.run("-f", "lavfi", "-i", samples.tone(4), "-c:a", "aac", "-bsf:a", "setts=ts=0", path)
    assert "all its time stamps are the same" in read(path, SMALL).warnings[0]


@pytest.mark.parametrize(
    ("codec", "missing"), [(b"avc1\0\0\0\0", "picture"), (b"V_MPEG4/ISO/AVC", "picture"), (b"A_AAC", "sound")]
)
def test_a_stream_of_an_unknown_kind_is_told(codec: bytes, missing: str, tmp_path: Path) -> None:
    path = tmp_path / f"odd.{'mkv' if b'_' in codec else 'mp4'}"
    data = samples.shared_film(f"plain{path.suffix}").read_bytes()
    assert codec in data
    path.write_bytes(data.replace(codec, codec[:2] + b"x" + codec[3:]))
    (told,) = [warning for warning in read(path, SMALL).warnings if "not known here" in warning]
    assert missing in told


def test_a_file_of_nothing_but_unknown_streams_is_refused_saying_so(tmp_path: Path) -> None:
    path = tmp_path / "odd.mkv"
    data = samples.shared_film("plain.mkv").read_bytes()
    path.write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ").replace(b"A_AAC", b"A_XYZ"))
    with pytest.raises(MediaError, match=r"odd\.mkv: encrypted, or of a kind that is not known here; convert it"):
        read(path, SMALL)
