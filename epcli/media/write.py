"""Frames and samples -> one media file."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import soundfile

from epcli.errors import EpError, MediaError
from epcli.files import whole
from epcli.media.ffmpeg import encode, name
from epcli.records import SAMPLE_RATE

MP3_KBPS = (8, 160)  # least and most at 16 kHz; libsndfile counts compression down from the most, 0 to 1


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
        MediaError: there is neither picture nor sound.
        EpError: it cannot be written: no encoder for this ending, no such folder, a full disk.
    """
    stream = iter(frames) if frames is not None else iter(())
    first = next(stream, None)
    if first is None and samples is None:
        raise MediaError(f"{name(path)}: neither picture nor sound to write")
    with whole(path) as partial, tempfile.TemporaryDirectory() as scratch:
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
            inputs.append(_sound(samples, rate, Path(scratch)))
            options |= {"acodec": "aac", "audio_bitrate": audio_bitrate}
        chunks = (np.ascontiguousarray(frame).tobytes() for frame in _all(first, stream))
        encode(inputs, partial, path, chunks, movflags="+faststart", **options)


def _sound(samples: np.ndarray, rate: int, folder: Path) -> Any:
    """(S,) float32 mono as an input of ffmpeg, by way of a file: its standard input is for pictures."""
    raw = folder / "sound.raw"
    raw.write_bytes(samples.astype("<f4").tobytes())
    return ffmpeg.input(str(raw), format="f32le", ar=rate, ac=1)


def _all(first: np.ndarray | None, rest: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    if first is not None:
        yield first
        yield from rest


def compressed_sound(samples: np.ndarray) -> tuple[bytes, str]:
    """(S,) float32 mono in [-1, 1] at 16 kHz -> a small file that any browser plays, and its MIME type. Raises EpError.

    MP3 at an even bit rate, so that a player finds any moment.
    """
    kbps = 32 if len(samples) <= 900 * SAMPLE_RATE else 16
    least, most = MP3_KBPS
    file = io.BytesIO()
    try:
        soundfile.write(
            file,
            samples,
            SAMPLE_RATE,
            format="MP3",
            subtype="MPEG_LAYER_III",
            bitrate_mode="CONSTANT",
            compression_level=(most - kbps) / (most - least),
        )
    except soundfile.LibsndfileError as error:
        raise EpError(f"the sound cannot be written as MP3: {error}") from error
    return file.getvalue(), "audio/mpeg"
