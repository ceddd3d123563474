"""How loud sound is: where it is silent, and the level that the parts expect."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from epcli.media.read import SILENCE_PEAK
from epcli.records import SAMPLE_RATE


def normalise_loudness(samples: np.ndarray) -> np.ndarray:
    """Raise a quiet clip until its loud parts stand at -20 dBFS, by 30 dB at most: the level the parts expect."""
    frames = samples[: len(samples) // 1600 * 1600].reshape(-1, 1600) if len(samples) >= 1600 else samples[None]
    loud = float(np.quantile(np.sqrt((frames.astype(np.float64) ** 2).mean(1)), 0.9))
    gain = min(max(0.1 / max(loud, 1e-6), 0.3), 31.6) if loud > 3e-4 else 1.0
    return np.clip(samples * gain, -1, 1).astype(np.float32)


def silences(samples: np.ndarray) -> list[tuple[float, float]]:
    """(S,) -> seconds from the first sample in which nothing is loud enough to be heard, to a tenth of a second."""
    tenth = SAMPLE_RATE // 10
    padded = np.pad(samples, (0, -len(samples) % tenth), "edge").reshape(-1, tenth)
    quiet = padded.max(1) - padded.min(1) < 2 * SILENCE_PEAK
    return joined(((i / 10, min((i + 1) / 10, len(samples) / SAMPLE_RATE)) for i in np.flatnonzero(quiet)), 0.01)


def joined(spans: Iterable[tuple[float, float]], gap_s: float) -> list[tuple[float, float]]:
    """Spans in order, those joined that overlap or lie at most `gap_s` apart."""
    whole: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if whole and start - whole[-1][1] <= gap_s:
            whole[-1] = whole[-1][0], max(end, whole[-1][1])
        else:
            whole.append((start, end))
    return whole
