"""Small media files made with ffmpeg when a test needs them, and what they must look and sound like.

Counting pictures: frame n is grey with luma 16 + 2 n (n modulo 100), so that a decoded frame tells its own number.
The tone: silence, then 440 Hz from ONSET_S on.
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from epcli.media import ffmpeg
from epcli.records import SAMPLE_RATE, Sampling

ONSET_S = 1.5
SMALL = Sampling(fps=2.0, max_frames=64, max_pixels=64 * 48, multiple=16)
RED_BLUE = "color=red:size=32x48:rate=10:duration=1[l];color=blue:size=32x48:rate=10:duration=1[r];[l][r]hstack"
X264 = ("libx264", "-preset", "ultrafast", "-bf", "2")


@cache
def home() -> Path:
    """One folder for the samples that tests share, gone when Python ends."""
    folder = tempfile.mkdtemp(prefix="epcli-media-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def run(*args: str | Path) -> None:
    """One ffmpeg, quietly; its error text is the test's failure."""
    done = subprocess.run(
        [ffmpeg.find().path, "-nostdin", "-y", "-v", "error", *map(str, args)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"ffmpeg {' '.join(map(str, args))}: {done.stderr}"


@cache
def encoders() -> str:
    done = subprocess.run([ffmpeg.find().path, "-v", "error", "-encoders"], capture_output=True, text=True, check=True)
    return done.stdout


def need(*names: str) -> None:
    """Skip the test unless the binary has these encoders."""
    for name in names:
        if f" {name} " not in encoders():
            pytest.skip(f"this ffmpeg has no encoder {name}")


def counting(duration: float, rate: int = 25) -> str:
    """A lavfi source of grey frames that tell their number."""
    return f"color=black:size=64x48:rate={rate}:duration={duration},geq=lum='16+2*mod(N,100)':cb=128:cr=128"


def tone(duration: float, rate: int = 48000, pitch: int = 440) -> str:
    """A lavfi source of the tone, amplitude 0.5."""
    return f"aevalsrc='0.5*sin(2*PI*{pitch}*t)*gte(t,{ONSET_S})':s={rate}:d={duration}"


def film(path: Path, video: tuple[str, ...] = X264, audio: tuple[str, ...] = ("aac",), duration: float = 3.0) -> Path:
    """Counting pictures, 25 a second, with the tone; silent if `audio` is empty."""
    need(video[0], *audio[:1])
    sound = ("-f", "lavfi", "-i", tone(duration)) if audio else ()
    codec = ("-c:a", *audio) if audio else ()
    run("-f", "lavfi", "-i", counting(duration), *sound, "-c:v", *video, "-pix_fmt", "yuv420p", *codec, path)
    return path


def offset_s(path: Path) -> float:
    """How far the first picture is behind the file's start: an encoder's run-in of sound, where the muxer counts it.

    Which muxers do has changed between ffmpeg's versions, so the file is asked.
    """
    with av.open(str(path)) as film:
        video = film.streams.video[0]
        assert video.start_time is not None
        assert video.time_base is not None
        return float(video.start_time * video.time_base) - (film.start_time or 0) / av.time_base


@cache
def shared_film(name: str, video: tuple[str, ...] = X264, audio: tuple[str, ...] = ("aac",), length: float = 3) -> Path:
    """A film several tests only read."""
    return film(home() / name, video, audio, length)


def number_of(frame: np.ndarray) -> float:
    """The number a counting frame shows, modulo 100 (RGB 0..255 back to luma 16..235)."""
    return float(frame[8:-8, 8:-8].mean()) * 219 / 255 / 2


def onset_s(samples: np.ndarray, threshold: float = 0.1) -> float:
    """When the sound first exceeds the threshold, seconds; infinity if never."""
    loud = np.abs(samples) > threshold
    return int(loud.argmax()) / SAMPLE_RATE if loud.any() else float("inf")


def pitch_hz(samples: np.ndarray) -> float:
    """The strongest frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * SAMPLE_RATE / len(samples))


def rotated(source: Path, target: Path, degrees: int) -> Path:
    """The same pictures, said to be turned counter-clockwise by `degrees` for showing."""
    if ffmpeg.find().numbers >= (6, 0):
        run("-display_rotation", str(degrees), "-i", source, "-c", "copy", target)
    else:
        run("-i", source, "-c", "copy", "-metadata:s:v", f"rotate={degrees}", target)
    return target


@pytest.fixture(params=["on PATH", "in the wheel"])
def each_ffmpeg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs with either binary that `ffmpeg.find` may return."""
    if request.param == "on PATH":
        if shutil.which("ffmpeg") is None:
            pytest.skip("no ffmpeg on PATH")
    else:
        bundled = imageio_ffmpeg.get_ffmpeg_exe()
        if bundled == shutil.which("ffmpeg"):
            pytest.skip("the wheel holds no ffmpeg of its own")
        monkeypatch.setattr(shutil, "which", lambda command: None)
    return ffmpeg.find().version
