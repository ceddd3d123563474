"""Files that hold several recordings: all of them are read, one after another, each by its own clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import media_samples as samples
import numpy as np
import pytest
from media_samples import SMALL, X264, number_of, onset_s

from epcli.errors import MediaError
from epcli.media import joined, play
from epcli.media.probe import probe
from epcli.media.read import read
from epcli.records import SAMPLE_RATE

MPEG2 = ("mpeg2video", "-q:v", "2", "-dc", "10")


def recording(path: Path, video: tuple[str, ...], audio: str, length: float, offset: float = 0.0) -> Path:
    """Counting pictures and the tone from ONSET_S on, as `samples.film`, with a clock that starts at `offset`."""
    source = ("-f", "lavfi", "-i", samples.counting(length), "-f", "lavfi", "-i", samples.tone(length))
    clock = ("-output_ts_offset", str(offset))
    samples.run(*source, "-c:v", *video, "-pix_fmt", "yuv420p", "-c:a", audio, *clock, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "video", "audio", "offsets"),
    [
        *(("ts", MPEG2, "mp2", offsets) for offsets in ((0, 0), (0, 1000), (0, 30), (0, 70000, 0), (95430, 0))),
        ("ts", X264, "aac", (1000, 0)),
        ("m2ts", X264, "ac3", (1000, 0)),
        ("mpg", MPEG2, "mp2", (0, 0)),
        ("mpg", MPEG2, "mp2", (1000, 0)),
    ],
)
def test_all_of_a_file_of_several_recordings_is_read(
    suffix: str, video: tuple[str, ...], audio: str, offsets: tuple[float, ...], tmp_path: Path
) -> None:
    parts = [recording(tmp_path / f"{n}.{suffix}", video, audio, 2.0, offset) for n, offset in enumerate(offsets)]
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    lengths = [probe(part).duration_s for part in parts]
    clip = read(path, SMALL)
    assert clip.warnings == (f"joined.{suffix}: is made of {len(parts)} recordings, which are read one after another",)
    assert clip.duration_s == pytest.approx(sum(lengths), abs=0.05)
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert clip.samples is not None
    begins = np.cumsum([0.0, *lengths[:-1]])
    for part, begin in zip(parts, begins, strict=True):
        lead = samples.offset_s(part)
        assert onset_s(clip.samples[round(begin * SAMPLE_RATE) :]) == pytest.approx(samples.ONSET_S, abs=0.1)
        mine = (clip.frame_times_s >= begin + lead) & (clip.frame_times_s < begin + 1.9)
        assert mine.sum() >= 3
        shift = [number_of(frame) for frame in clip.frames[mine]] - 25 * (clip.frame_times_s[mine] - begin)
        assert np.abs(shift).max() < 2.5
    across = read(path, SMALL, start_s=lengths[0] - 0.3, end_s=lengths[0] + 1.8)
    assert across.samples is not None
    assert len(across.samples) == pytest.approx(2.1 * SAMPLE_RATE, abs=10)
    assert onset_s(across.samples[int(0.4 * SAMPLE_RATE) :]) == pytest.approx(0.3 + samples.ONSET_S - 0.4, abs=0.1)
    played = list(play.frames(path, 0.0, clip.duration_s, (64, 48), 10.0))
    assert len(played) == pytest.approx(10 * clip.duration_s, abs=1 + len(parts))


@pytest.mark.parametrize("codec", ["libvorbis", "libopus", "flac"])
def test_all_of_a_chained_ogg_is_read(codec: str, tmp_path: Path) -> None:
    samples.need(codec)
    parts = []
    for number, rate in enumerate((48000, 24000 if codec != "libopus" else 48000)):
        parts.append(tmp_path / f"{number}.ogg")
        samples.run("-f", "lavfi", "-i", samples.tone(2, rate), "-c:a", codec, parts[-1])
    path = tmp_path / "chained.ogg"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    clip = read(path, SMALL)
    assert clip.duration_s == pytest.approx(4.0, abs=0.02)
    assert clip.samples is not None
    assert onset_s(clip.samples) == pytest.approx(samples.ONSET_S, abs=0.02)
    assert onset_s(clip.samples[2 * SAMPLE_RATE :]) == pytest.approx(samples.ONSET_S, abs=0.02)
    assert "is made of 2 recordings" in clip.warnings[0]
    second = read(path, SMALL, start_s=3.0)
    assert second.samples is not None
    assert onset_s(second.samples) == pytest.approx(samples.ONSET_S - 1, abs=0.02)


FILMS = {"avi": "mpeg4", "mp4": "mpeg4", "mkv": "mpeg4", "flv": "flv1", "wmv": "wmv2", "mxf": "mpeg2video"}


@pytest.mark.parametrize("suffix", [*FILMS, "wav", "aiff", "au", "caf", "w64", "flac", "wv", "mp3"])
def test_all_files_that_were_written_one_behind_another_are_read(suffix: str, tmp_path: Path) -> None:
    part, path = tmp_path / f"part.{suffix}", tmp_path / f"joined.{suffix}"
    picture = ("-f", "lavfi", "-i", samples.counting(2), "-c:v", FILMS[suffix]) if suffix in FILMS else ()
    samples.run("-f", "lavfi", "-i", samples.tone(2), *picture, part)
    assert read(part, SMALL).warnings == ()
    path.write_bytes(part.read_bytes() * 3)
    clip = read(path, SMALL)
    assert clip.warnings == (f"joined.{suffix}: is made of 3 recordings, which are read one after another",)
    length = probe(part).duration_s
    assert clip.duration_s == pytest.approx(3 * length, abs=0.01)
    assert clip.samples is not None
    for number in range(3):
        piece = clip.samples[round(number * length * SAMPLE_RATE) + 800 :]
        assert onset_s(piece) == pytest.approx(samples.ONSET_S - 0.05, abs=0.06)


@pytest.mark.parametrize("suffix", ["wav", "caf", "mkv", "wma"])
def test_joined_files_that_were_written_to_a_pipe_are_read(suffix: str, tmp_path: Path) -> None:
    part, path = tmp_path / f"part.{suffix}", tmp_path / f"joined.{suffix}"
    samples.run("-f", "lavfi", "-i", samples.tone(2), "-seekable", "0", part)
    assert read(part, SMALL).warnings == ()
    path.write_bytes(part.read_bytes() * 2)
    clip = read(path, SMALL)
    assert clip.warnings == (f"joined.{suffix}: is made of 2 recordings, which are read one after another",)
    assert clip.duration_s == pytest.approx(2 * probe(part).duration_s, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["ivf", "y4m"])
def test_all_pictures_of_joined_files_without_sound_are_seen(suffix: str, tmp_path: Path) -> None:
    part, path = tmp_path / f"part.{suffix}", tmp_path / f"joined.{suffix}"
    if suffix == "ivf":
        samples.need("libvpx")
    samples.run("-f", "lavfi", "-i", samples.counting(2), "-pix_fmt", "yuv420p", part)
    path.write_bytes(part.read_bytes() * 2)
    clip, one = read(path, SMALL), read(part, SMALL)
    assert clip.duration_s == pytest.approx(4.0, abs=0.05)
    assert clip.frames is not None
    assert one.frames is not None
    numbers = [number_of(frame) for frame in one.frames]
    assert [number_of(frame) for frame in clip.frames] == pytest.approx(numbers * 2, abs=1.5)


def test_joined_speech_of_telephones_is_read(tmp_path: Path) -> None:
    samples.need("libopencore_amrnb")
    part, path = tmp_path / "part.amr", tmp_path / "joined.amr"
    samples.run("-f", "lavfi", "-i", samples.tone(2, 8000), part)
    path.write_bytes(part.read_bytes() * 2)
    clip = read(path, SMALL)
    assert len(clip.warnings) == 1
    assert clip.duration_s == pytest.approx(2 * probe(part).duration_s, abs=0.01)


def test_a_tag_in_the_middle_of_an_mp3_that_no_sound_follows_begins_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "one.mp3"
    samples.run("-f", "lavfi", "-i", samples.tone(2), path)
    path.write_bytes(path.read_bytes() + b"ID3\4\0\0\0\0\0\x0a" + b"." * 1200)
    assert joined.spans(path, "mp3") == [(0, path.stat().st_size)]


def test_a_tag_in_front_of_a_flac_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "tagged.flac"
    samples.run("-f", "lavfi", "-i", samples.tone(2), path)
    path.write_bytes(b"ID3\4\0\0\0\0\0\x3f" + bytes(63) + path.read_bytes())
    clip = read(path, SMALL)
    assert clip.warnings == ()
    assert clip.duration_s == pytest.approx(2.0, abs=0.01)


def test_recordings_whose_streams_have_other_numbers_are_read_too(tmp_path: Path) -> None:
    parts = [tmp_path / "one.ts", tmp_path / "two.ts"]
    for number, part in enumerate(parts):
        source = ("-f", "lavfi", "-i", samples.counting(2), "-f", "lavfi", "-i", samples.tone(2))
        ids = ("-streamid", f"0:{500 + 10 * number}", "-streamid", f"1:{501 + 10 * number}")
        samples.run(*source, "-c:v", "mpeg2video", "-c:a", "mp2", *ids, part)
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    clip = read(path, SMALL)
    assert clip.warnings == ("joined.ts: is made of 2 recordings, which are read one after another",)
    assert clip.duration_s == pytest.approx(4.0, abs=0.1)


def test_programs_side_by_side_are_one_recording(tmp_path: Path) -> None:
    path = tmp_path / "two.ts"
    source = [item for length in (2, 2) for item in ("-f", "lavfi", "-i", samples.counting(length))]
    programs = ("-program", "program_num=1:st=0", "-program", "program_num=2:st=1")
    samples.run(*source, "-map", "0", "-map", "1", "-c:v", "mpeg2video", *programs, path)
    assert len(joined.spans(path, "mpegts")) == 1


def test_a_second_recording_without_sound_is_seen_and_silent(tmp_path: Path) -> None:
    loud, mute, path = tmp_path / "loud.ts", tmp_path / "mute.ts", tmp_path / "joined.ts"
    recording(loud, X264, "aac", 2.0)
    samples.film(mute, X264, (), 2.0)
    path.write_bytes(mute.read_bytes() + loud.read_bytes())
    clip = read(path, SMALL)
    assert clip.frames is not None
    assert len(clip.frames) == 8
    path.write_bytes(loud.read_bytes() + mute.read_bytes())
    clip = read(path, SMALL)
    assert clip.samples is not None
    assert len(clip.samples) == pytest.approx(2 * SAMPLE_RATE, rel=0.05)


def test_the_jump_of_a_large_file_is_found_between_the_blocks_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, path = tmp_path / "part.ts", tmp_path / "joined.ts"
    samples.run(
        *("-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=8", "-c:v", "mpeg2video", "-q:v", "2", part)
    )
    data = part.read_bytes()
    path.write_bytes(data * 2)
    whole = joined.spans(path, "mpegts")
    monkeypatch.setattr(joined, "_MOST_BLOCKS", 6)
    assert len(data) * 2 > 6 * joined._BLOCK
    assert joined.spans(path, "mpegts") == whole
    assert len(whole) == 2
    assert abs(whole[0][1] - len(data)) <= 5 * 188
    assert len(joined.spans(part, "mpegts")) == 1


def test_time_stamps_that_make_days_of_a_few_bytes_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "jump.mkv"
    jump = "setts=ts='if(gt(TS,1000),TS+90000000,TS)'"
    samples.run("-i", samples.shared_film("plain.mkv"), "-c", "copy", "-bsf:v", jump, "-bsf:a", jump, path)
    with pytest.raises(MediaError, match=r"jump\.mkv: its time stamps tell 25 hours, .*: ffmpeg -i OLD ") as refused:
        read(path, replace(SMALL, max_frames=4))
    remedy = str(refused.value).split(": ffmpeg ")[1]
    remedy = remedy.replace("OLD", str(path)).replace("NEW", str(tmp_path / "new"))
    samples.run(*remedy.split())
    assert probe(tmp_path / "new.mp4").duration_s == pytest.approx(3.0, abs=0.1)
