"""Sounds: any file to 16 kHz mono, silence cut off its ends, level evened out, too short or silent ones refused."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soundfile

from epcli.errors import MediaError
from epcli.records import SAMPLE_RATE

LONGEST_S = 8.0
SHORTEST_S = 0.05
_LEVEL = 0.1  # root mean square, of full scale, of the louder parts
_PEAK = 0.95


def read(path: Path, rate: int = SAMPLE_RATE) -> np.ndarray:
    """(S,) float32 at `rate`: the mean of the first stream's channels. Raises MediaError if it cannot be decoded."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    try:
        with av.open(str(path)) as container:
            frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
            frames += resampler.resample(None)  # what the filter still holds
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise MediaError(f"{path.name}: not a readable sound ({error})") from error
    parts = [frame.to_ndarray().reshape(-1) for frame in frames]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def clean(samples: np.ndarray, longest_s: float | None = LONGEST_S) -> np.ndarray | None:
    """Without silent ends, evened out, at most `longest_s`; None if silent or too short to be heard as something."""
    frame = SAMPLE_RATE // 50
    n = len(samples) // frame
    if n == 0 or not np.isfinite(samples).all():
        return None
    samples = samples - samples.mean()
    level = np.sqrt((samples[: n * frame].reshape(n, frame) ** 2).mean(1))
    loudest = level.max()
    heard = np.flatnonzero(level > max(0.01 * loudest, 1e-4))
    if loudest < 1e-3 or not len(heard):
        return None
    cut = samples[max(0, heard[0] - 1) * frame : (heard[-1] + 2) * frame].copy()
    if longest_s is not None:
        cut = cut[: int(longest_s * SAMPLE_RATE)]
    if len(cut) < SHORTEST_S * SAMPLE_RATE:
        return None
    loud = level[level > 0.1 * loudest]
    gain = min(_LEVEL / float(np.sqrt((loud**2).mean())), _PEAK / float(np.abs(cut).max()))
    cut *= gain
    fade = min(SAMPLE_RATE // 50, len(cut) // 4)
    cut[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return cut.astype(np.float32)


def write(path: Path, samples: np.ndarray) -> None:
    """16-bit FLAC, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    try:
        soundfile.write(partial, samples, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    except (OSError, soundfile.LibsndfileError) as error:
        raise MediaError(f"{path.name}: cannot be written ({error})") from error
    partial.replace(path)


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """Highest correlation, 0 to 1, of two recordings shifted against each other: near 1 if they are copies.

    Measured at an eighth of the rate on their first 3 s, so that another encoding does not hide a copy.
    """
    short = [_slow(x) for x in (a, b)]
    n = 1 << (sum(map(len, short)) - 1).bit_length()
    spectra = [np.fft.rfft(x, n) for x in short]
    norm = float(np.linalg.norm(short[0]) * np.linalg.norm(short[1]))
    return float(np.abs(np.fft.irfft(spectra[0] * spectra[1].conj(), n)).max() / norm) if norm else 0.0


def _slow(x: np.ndarray) -> np.ndarray:
    x = x[: 3 * SAMPLE_RATE]
    return x[: len(x) // 8 * 8].reshape(-1, 8).mean(1)
