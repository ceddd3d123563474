"""What can be shown and played of a clip: a picture for each frame grid, the sound, its waveform and spectrogram."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from epcli.records import SAMPLE_RATE, Clip, MediaTokens, Preview

COLUMNS = 1600  # of the waveform and the spectrogram at most
MEL_BANDS = 64
WINDOW, HOP = 400, 160  # of the spectrogram, samples: 25 and 10 ms, as the towers hear
FLOOR_DB = 70.0  # below the loudest: black


def preview_of(clip: Clip, tokens: MediaTokens) -> Preview:
    """The preview of a clip whose tokens are these."""
    frames = times = None
    if clip.frames is not None and clip.frame_times_s is not None:
        grids = len(clip.frames) if tokens.observed else int(tokens.cells[:, 0].max()) + 1
        each = -(-len(clip.frames) // grids)  # a grid may hold several frames: its first stands for it
        frames, times = clip.frames[::each], clip.frame_times_s[::each] + clip.range_s[0]
    wave, mel = (None, None) if clip.samples is None else (waveform(clip.samples), spectrogram(clip.samples))
    return Preview(frames, times, clip.samples, wave, mel)


def waveform(samples: np.ndarray) -> np.ndarray:
    """(S,) -> (P, 2) float32: lowest and highest sample of each column, P up to COLUMNS."""
    columns = min(COLUMNS, len(samples))
    edges = np.arange(columns) * len(samples) // columns
    return np.stack([np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges)], 1)


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """(S,) -> (MEL_BANDS, P) float32 in [0, 1], low notes first, P up to COLUMNS: the loudest of each column, in dB."""
    bank = torch.from_numpy(
        mel_filter_bank(WINDOW // 2 + 1, MEL_BANDS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm=None, mel_scale="htk")
    ).float()
    sound = torch.from_numpy(np.pad(samples, WINDOW // 2))
    total = (len(sound) - WINDOW) // HOP + 1
    parts = []
    for first in range(0, total, 10_000):  # 100 s at a time
        count = min(10_000, total - first)
        part = sound[first * HOP : (first + count - 1) * HOP + WINDOW]
        spectrum = torch.stft(part, WINDOW, HOP, window=torch.hann_window(WINDOW), center=False, return_complex=True)
        parts.append(bank.T @ spectrum.abs().square())
    power = torch.cat(parts, 1)
    if power.shape[1] > COLUMNS:
        power = F.adaptive_max_pool1d(power[None], COLUMNS)[0]
    level = 10 * power.clamp(min=1e-10).log10()
    return ((level - level.max()) / FLOOR_DB + 1).clamp(0, 1).numpy()
