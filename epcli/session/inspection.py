"""Everything that `ep inspect` shows, computed once: runs of questions and selectors on one file, and its preview."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.records import SAMPLE_RATE, Clip, Inspection, InspectionRun, MediaTokens, Modality, Preview, ProfileChoice
from epcli.session.clips import EncodedClip
from epcli.session.moments import media_tokens
from epcli.session.plan import Plan, plan
from epcli.session.session import Answered, Session
from epcli.sieve.selectors import SELECTORS
from epcli.text import as_question

QUESTION = "What happens in this clip?"  # asked where none is given: what is kept depends on a question
COLUMNS = 1600  # of the waveform and the spectrogram at most
MEL_BANDS = 64
WINDOW, HOP = 400, 160  # of the spectrogram, samples: 25 and 10 ms, as the towers hear
FLOOR_DB = 70.0  # below the loudest: black


def inspect(
    media: Path,
    questions: Sequence[str],
    profile: Profile,
    selectors: Sequence[str] = (),
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    on_stage: Callable[[str], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
    chosen: ProfileChoice | None = None,
) -> Inspection:
    """Ask each question on what each selector keeps. The file is decoded and encoded once, the model loaded once.

    `selectors`: none is the profile's own choice. `chosen`: the profile that the settings began with, for the reports.

    Raises EpError: UsageError, MediaError, WeightsError, CapacityError.
    """
    questions = [as_question(each) for each in questions] or [QUESTION]
    for name in selectors:
        if name not in SELECTORS:
            raise UsageError(f"no selector named {name!r}; there are: {', '.join(SELECTORS)}")
    profiles = [_with_selector(profile, name) for name in selectors] or [profile]
    planned = plan(media, profile, start_s=start_s, end_s=end_s)
    session = Session(profile, on_stage)
    session.on_progress = on_progress
    opened = session.open(media, start_s, end_s)
    looked = session.encode(opened)
    asked: list[Answered] = []
    for question in questions:
        for each in profiles:
            session = session.using(each)  # hands the loaded model on
            answered = session.run(looked.again() if asked else looked, question)
            asked.append(replace(answered, report=replace(answered.report, profile=chosen)))
    return shown(looked, asked, planned, opened.clip)


def shown(looked: EncodedClip, asked: Sequence[Answered], planned: Plan, clip: Clip | None = None) -> Inspection:
    """What was asked about one look, ready to be shown. `clip`: what was looked at, decoded again unless given."""
    tokens = media_tokens(asked[0].kept.stream, looked.clip)
    preview = _preview(clip or looked.decode(), tokens)
    return Inspection(
        looked.clip.info, looked.clip.range_s, planned.to_dict(), tokens, preview, tuple(map(_run, asked))
    )


def _with_selector(profile: Profile, name: str) -> Profile:
    """The profile under another selector; `none` keeps everything, whatever was asked for."""
    if name == "none":
        return replace(profile, selector=name, keep=None, budget=None)
    return replace(profile, selector=name)


def _run(asked: Answered) -> InspectionRun:
    kept = asked.kept
    is_av = (kept.stream.modality != Modality.TEXT).cpu()
    chosen = torch.zeros(len(is_av), dtype=torch.bool)
    chosen[kept.indices.cpu()] = True
    scores = None if kept.scores is None else kept.scores.cpu()[is_av].float().numpy()
    evidence = asked.evidence if asked.evidence is not None else np.zeros(int(is_av.sum()), np.float32)
    return InspectionRun(asked.report, chosen[is_av].numpy(), scores, evidence)


def _preview(clip: Clip, tokens: MediaTokens) -> Preview:
    frames = times = None
    if clip.frames is not None and clip.frame_times_s is not None:
        grids = int(tokens.cells[:, 0].max()) + 1
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
