"""Sound as recorders, TV cards and editors leave it: formats that change in mid-stream, samples that are no numbers,
channels that cancel out, silence, several tracks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import media_samples as samples
import numpy as np
import pytest
import soundfile
from media_samples import SMALL, number_of, onset_s, pitch_hz

from epcli.media.probe import probe
from epcli.media.read import read
from epcli.records import SAMPLE_RATE

HEARD = replace(SMALL, video=False)
TIME = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
LEFT = (0.5 * np.sin(2 * np.pi * 440 * TIME)).astype(np.float32)
OTHER = (0.5 * np.sin(2 * np.pi * 700 * TIME)).astype(np.float32)


def part(path: Path, pitch: int, rate: int, layout: str, *codec: str) -> Path:
    """Two seconds of a tone, all channels alike."""
    channels = "|".join([f"0.5*sin(2*PI*{pitch}*t)"] * {"mono": 1, "stereo": 2, "5.1": 6}[layout])
    samples.run("-f", "lavfi", "-i", f"aevalsrc='{channels}':s={rate}:d=2:c={layout}", *codec, path)
    return path


def joined(target: Path, *parts: Path) -> Path:
    target.write_bytes(b"".join(path.read_bytes() for path in parts))
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((48000, "stereo"), (48000, "5.1")),
        ((48000, "5.1"), (48000, "stereo")),
        ((48000, "stereo"), (48000, "mono")),
        ((48000, "stereo"), (44100, "mono")),
        ((32000, "mono"), (48000, "stereo")),
    ],
)
@pytest.mark.parametrize(
    ("codec", "raw", "container"),
    [("aac", "adts", "aac"), ("ac3", "ac3", "ac3"), ("ac3", "ac3", "mkv"), ("ac3", "ac3", "ts")],
)
def test_sound_goes_on_where_channels_or_sample_rate_change(
    before: tuple[int, str], after: tuple[int, str], codec: str, raw: str, container: str, tmp_path: Path
) -> None:
    if container in ("mkv", "ts") and before[0] != after[0]:
        pytest.skip("copying does not give the second part its true time")
    first = part(tmp_path / f"first.{raw}", 440, *before, "-c:a", codec, "-f", raw)
    second = part(tmp_path / f"second.{raw}", 880, *after, "-c:a", codec, "-f", raw)
    path = bare = joined(tmp_path / f"change.{codec}", first, second)
    if container != codec:
        path = tmp_path / f"film.{container}"
        samples.run("-i", bare, "-c", "copy", path)
    whole = read(path, HEARD)
    assert whole.warnings == ()
    assert whole.duration_s == pytest.approx(4.05, abs=0.1)  # the codecs pad
    assert whole.samples is not None
    assert pitch_hz(whole.samples[: 2 * SAMPLE_RATE]) == pytest.approx(440, abs=1)
    assert pitch_hz(whole.samples[int(2.2 * SAMPLE_RATE) : int(3.8 * SAMPLE_RATE)]) == pytest.approx(880, abs=1)
    assert np.abs(whole.samples[int(2.2 * SAMPLE_RATE) :]).max() > 0.2
    for start, end in ((1.5, 3.0), (2.5, 3.5)):
        clip = read(path, HEARD, start_s=start, end_s=end)
        assert clip.samples is not None
        expected = whole.samples[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
        assert len(clip.samples) == len(expected)
        settled = slice(int(0.05 * SAMPLE_RATE), None)
        assert np.corrcoef(clip.samples[settled], expected[settled])[0, 1] > 0.99


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("both", [True, False])
def test_samples_that_are_no_numbers_become_zero(value: float, subtype: str, both: bool, tmp_path: Path) -> None:
    path, pairs = tmp_path / "broken.wav", np.stack([LEFT, LEFT], axis=1).astype(np.float64)
    pairs[SAMPLE_RATE, :] = value if both else (value, pairs[SAMPLE_RATE, 1])
    soundfile.write(path, pairs, SAMPLE_RATE, subtype)
    clip = read(path, HEARD)
    assert clip.samples is not None
    assert np.isfinite(clip.samples).all()
    wrong = np.abs(clip.samples - LEFT) > 0.01
    assert not wrong[: SAMPLE_RATE - 50].any()
    assert not wrong[SAMPLE_RATE + 50 :].any()
    assert clip.warnings == ("broken.wav: some samples are not numbers (NaN or infinite); they are read as zero",)


@pytest.mark.parametrize(
    ("right", "cancels", "expected"),
    [
        (-LEFT, True, LEFT),
        (-0.9 * LEFT, True, LEFT),
        (-1.5 * LEFT, True, -1.5 * LEFT),  # the louder one
        (-LEFT + 0.05 * OTHER, True, LEFT),
        (LEFT, False, LEFT),
        (0 * LEFT, False, LEFT / 2),
        (OTHER, False, (LEFT + OTHER) / 2),
    ],
)
def test_channels_that_cancel_out_are_heard_by_the_louder_one(
    right: np.ndarray, cancels: bool, expected: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([LEFT, right], axis=1), SAMPLE_RATE, "FLOAT")
    clip = read(path, HEARD)
    assert clip.samples is not None
    assert np.abs(clip.samples - expected).max() < 0.01
    assert not clip.silent
    assert [("cancel out in 2.0 s" in warning) for warning in clip.warnings] == [True] * cancels


def test_surround_sound_whose_sides_cancel_out_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "surround.wav"
    none = 0 * LEFT
    soundfile.write(path, np.stack([LEFT, -LEFT, none, none, OTHER, -OTHER], axis=1), SAMPLE_RATE)
    clip = read(path, HEARD)
    assert clip.samples is not None
    assert np.abs(clip.samples).max() > 0.2
    assert any("cancel out" in warning for warning in clip.warnings)


def test_only_the_part_that_cancels_out_is_heard_by_one_channel(tmp_path: Path) -> None:
    path = tmp_path / "half.wav"
    right = np.concatenate([LEFT, -LEFT])
    soundfile.write(path, np.stack([np.concatenate([LEFT, LEFT]), right], axis=1), SAMPLE_RATE)
    clip = read(path, HEARD)
    assert clip.samples is not None
    assert np.abs(clip.samples - np.concatenate([LEFT, LEFT])).max() < 0.01
    (warning,) = clip.warnings
    assert "cancel out in 2.0 s" in warning


@pytest.mark.parametrize(
    ("source", "silent"),
    [
        ("anullsrc=r=48000:cl=stereo:d=1", True),
        ("anoisesrc=r=48000:d=1:a=0.0005", True),
        ("sine=440:r=48000:d=1,volume=0.002", True),  # a sine of ffmpeg's has an amplitude of 1/8
        ("sine=440:r=48000:d=1,volume=0.05", False),
        ("anullsrc=r=48000:d=1,aeval='0.5*between(n,40000,40100)'", False),
        ("aevalsrc=0.0015:s=16000:d=2", True),  # a constant
    ],
)
@pytest.mark.parametrize("suffix", ["wav", "m4a"])
def test_sound_that_cannot_be_heard_is_reported_as_silent(
    source: str, silent: bool, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"quiet.{suffix}"
    samples.run("-f", "lavfi", "-i", source, path)
    clip = read(path, HEARD)
    assert clip.silent == silent
    assert clip.summary().silent == silent
    assert clip.warnings == (("quiet." + suffix + ": the sound is silent",) if silent else ())


def test_silence_is_that_of_the_range(tmp_path: Path) -> None:
    path = tmp_path / "late.wav"
    samples.run("-f", "lavfi", "-i", samples.tone(3), path)
    assert not read(path, HEARD).silent
    clip = read(path, HEARD, end_s=1.0)
    assert clip.silent
    assert clip.warnings == ("late.wav: the sound is silent from 0:00 to 0:01",)


@pytest.mark.parametrize(("default", "pitch"), [((), 440), ((0,), 440), ((1,), 880), ((2,), 1320)])
def test_the_default_track_is_heard_unless_another_is_asked_for(
    default: tuple[int, ...], pitch: int, tmp_path: Path
) -> None:
    path = tmp_path / "three.mkv"
    tones = [("-f", "lavfi", "-i", f"sine={440 * (n + 1)}:d=1") for n in range(3)]
    flags = [(f"-disposition:a:{n}", "default" if n in default else "0") for n in range(3)]
    maps = [("-map", str(n)) for n in range(3)]
    samples.run(*sum((*tones, *maps, *flags), ()), "-metadata:s:a:1", "language=deu", "-c:a", "flac", path)
    assert len(probe(path).audio_tracks) == 3
    clip = read(path, HEARD)
    assert clip.samples is not None
    assert pitch_hz(clip.samples) == pytest.approx(pitch, abs=1)
    (warning,) = clip.warnings
    read_one = pitch // 440 - 1
    about = f"{read_one} (deu)" if read_one == 1 else str(read_one)
    assert warning == f"three.mkv: has 3 audio tracks; listening to track {about}, --audio-track chooses another"
    asked = read(path, replace(HEARD, audio_track=2))
    assert asked.samples is not None
    assert pitch_hz(asked.samples) == pytest.approx(1320, abs=1)
    assert asked.warnings == ()


@pytest.mark.parametrize("gap", [0.5, 3.0])
def test_a_gap_between_pieces_of_sound_is_silent_and_the_rest_in_its_place(gap: float, tmp_path: Path) -> None:
    path = tmp_path / "gap.mkv"
    cut = f"aselect='lt(t,1)+gte(t,{1 + gap})'"
    samples.run("-f", "lavfi", "-i", f"sine=440:d={2 + gap},{cut}", "-c:a", "pcm_s16le", path)
    for start in (0.0, 0.5):
        clip = read(path, HEARD, start_s=start)
        assert clip.samples is not None
        late = clip.samples[int((1.1 - start) * SAMPLE_RATE) :]
        assert onset_s(late, 0.05) == pytest.approx(gap - 0.1, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("before", [0.2, 40.0])  # seconds from the start to the wrap; libavformat looks ahead a minute
@pytest.mark.parametrize(("suffix", "video"), [("ts", "mpeg2video"), ("mpg", "mpeg2video")])
def test_a_recording_whose_clock_wraps_has_its_full_length(
    before: float, suffix: str, video: str, tmp_path: Path
) -> None:
    path = tmp_path / f"wraps.{suffix}"
    length = before + 4
    tone = f"aevalsrc='0.5*sin(2*PI*440*t)*gte(t,{before + 2})':s=48000:d={length}"
    samples.run(
        *("-f", "lavfi", "-i", samples.counting(length, 5), "-f", "lavfi", "-i", tone, "-c:v", video, "-r", "25"),
        *(
            "-c:a",
            "mp2",
            "-muxdelay",
            "0",
            "-muxpreload",
            "0",
            "-output_ts_offset",
            f"{2**33 / 90000 - before:.3f}",
            path,
        ),
    )
    clip = read(path, SMALL)
    assert clip.duration_s == pytest.approx(length, abs=0.1)
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert clip.samples is not None
    assert onset_s(clip.samples) == pytest.approx(before + 2, abs=0.06)
    numbers = [number_of(frame) for frame in clip.frames]
    assert np.abs(numbers - np.floor(clip.frame_times_s * 5 + 0.01) % 100).max() < 1.1
    across = read(path, SMALL, start_s=before + 1, end_s=before + 3)
    assert across.samples is not None
    assert onset_s(across.samples) == pytest.approx(1, abs=0.06)
    assert across.warnings == ()


def test_sound_that_stops_for_long_is_told_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "gap.mkv"
    later = "setts=ts=if(gt(PTS*TB\\,1)\\,PTS+100/TB\\,PTS)"
    samples.run("-f", "lavfi", "-i", samples.tone(3), "-c:a", "aac", "-bsf:a", later, path)
    (warning,) = read(path, HEARD).warnings
    assert "gap.mkv: the sound stops for 1:40" in warning
    assert "setpts=N/FRAME_RATE/TB" in warning
