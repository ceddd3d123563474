"""Everything that `ep inspect` shows, computed once: runs of questions and selectors on one file, and its preview."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.records import Clip, Inspection, InspectionRun, Modality, ProfileChoice
from epcli.session.clips import EncodedClip
from epcli.session.moments import media_tokens
from epcli.session.plan import Plan, plan
from epcli.session.preview import preview_of
from epcli.session.session import Answered, Session
from epcli.sieve.depths import token_depths
from epcli.sieve.selectors import SELECTORS
from epcli.text import as_question

QUESTION = "What happens in this clip?"  # asked where none is given: what is kept depends on a question


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
    session = Session(profile, on_stage, on_progress)
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
    preview = preview_of(clip or looked.decode(), tokens)
    return Inspection(looked.clip.info, looked.clip.range_s, planned, tokens, preview, tuple(map(_run, asked)))


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
    layers = None
    if kept.depths is not None:
        deepest = int(kept.depths.max()) if len(kept.depths) else 0  # text passes all of them
        layers = token_depths(kept, deepest)[is_av].to(torch.int16).numpy()
    return InspectionRun(asked.report, chosen[is_av].numpy(), scores, evidence, layers)
