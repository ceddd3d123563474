"""Frames and samples -> one media file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import soundfile

from epcli.errors import MediaError
from epcli.media.ffmpeg import encode, name
from epcli.records import SAMPLE_RATE


def write(
    path: Path,
    frames: Iterable[np.ndarray] | None = None,
    fps: float = 1.0,
    samples: np.ndarray | None = None,
    *,
    rate: int = SAMPLE_RATE,
    crf: int = 23,
    audio_bitrate: str = "96k",
) -> None:
    """Write `path` whole or not at all: H.264 (8 bits, any player) and AAC, in the container its ending names.

    Args:
        frames: (H, W, 3) uint8 RGB of one size, `fps` a second; taken one at a time, so a long film needs no memory.
        samples: (S,) float32 mono in [-1, 1] at `rate` Hz.
        crf: of x264, 0 to 51; lower is better and larger.

    Raises:
        MediaError: there is neither picture nor sound, or ffmpeg cannot write it.
    """
    stream = iter(frames) if frames is not None else iter(())
    first = next(stream, None)
    if first is None and samples is None:
        raise MediaError(f"{name(path)}: neither picture nor sound to write")
    partial = path.with_name(f".{path.name}.part{path.suffix}")
    with tempfile.TemporaryDirectory() as scratch:
        inputs: list[Any] = []
        options: dict[str, Any] = {}
        if first is not None:
            height, width = first.shape[:2]
            inputs.append(
                ffmpeg.input(
                    "pipe:0", format="rawvideo", pixel_format="rgb24", video_size=(width, height), framerate=fps
                )
            )
            options |= {"vcodec": "libx264", "crf": crf, "preset": "veryfast", "pix_fmt": "yuv420p"}
            if width % 2 or height % 2:  # 4:2:0 needs even sides
                options["vf"] = "pad=ceil(iw/2)*2:ceil(ih/2)*2"
        if samples is not None:
            wave = Path(scratch) / "sound.wav"
            soundfile.write(wave, samples, rate, subtype="FLOAT")
            inputs.append(ffmpeg.input(str(wave)))
            options |= {"acodec": "aac", "audio_bitrate": audio_bitrate}
        output = ffmpeg.output(*inputs, "file:" + os.path.abspath(partial), movflags="+faststart", **options)
        chunks = (np.ascontiguousarray(frame).tobytes() for frame in _all(first, stream))
        try:
            encode(output, path, chunks)
            os.replace(partial, path)
        except OSError as problem:
            raise MediaError(f"{name(path)}: cannot be written: {problem.strerror}") from None
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _all(first: np.ndarray | None, rest: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    if first is not None:
        yield first
        yield from rest


def compressed_sound(samples: np.ndarray, *, rate: int = SAMPLE_RATE) -> tuple[bytes, str]:
    """(S,) float32 mono in [-1, 1] -> a small file that any browser plays, and its MIME type. Raises MediaError.

    MP3 at an even bit rate, so that a player finds any moment; AAC where ffmpeg cannot write MP3.
    """
    bit_rate = "32k" if len(samples) <= 900 * rate else "16k"
    with tempfile.TemporaryDirectory() as scratch:
        wave = Path(scratch) / "sound.wav"
        soundfile.write(wave, samples, rate, subtype="FLOAT")
        for file, codec, kind in (("sound.mp3", "libmp3lame", "audio/mpeg"), ("sound.m4a", "aac", "audio/mp4")):
            target = Path(scratch) / file
            options = {"acodec": codec, "audio_bitrate": bit_rate}
            try:
                encode(ffmpeg.output(ffmpeg.input(str(wave)), "file:" + str(target), **options), target)
            except MediaError:
                if codec == "aac":
                    raise
                continue
            return target.read_bytes(), kind
    raise AssertionError("not reached")
