"""The report of an answer: everything that was measured, put into one record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from epcli.config import Profile
from epcli.models.family import AVModel
from epcli.records import (
    STAGES,
    Answer,
    AnswerEvidence,
    CacheUse,
    ChoiceProbability,
    ClipSummary,
    EvidenceShares,
    KeptStream,
    MeanKept,
    MediaTokens,
    MediaUse,
    MemoryUse,
    Modality,
    Report,
    Requested,
    Sampling,
    SeenFeatures,
    Sight,
    Speed,
    StageSeconds,
    TokenCount,
    TokenCounts,
    TokenUse,
    VideoFeatures,
)
from epcli.session.clips import EncodedClip
from epcli.session.evidence import RULE
from epcli.session.meter import Meter
from epcli.session.moments import media_tokens, moments
from epcli.sieve.depths import token_depths

RECOGNISED = ("object", "scene", "text")  # kinds of sights


@dataclass(frozen=True, eq=False)
class Measured:
    """What a report is made from, besides the question and the clip."""

    model: AVModel
    selector: str
    kept: KeptStream
    answer: Answer
    meter: Meter  # of the stages from loading to evidence
    evidence: np.ndarray | None  # (n,) float32, what each sound and picture token gave to the answer; None: not asked
    notes: tuple[str, ...]  # what the user should be told besides
    choices: tuple[ChoiceProbability, ...] | None = None  # where the answer was one of several


def build_report(question: str, profile: Profile, looked: EncodedClip, made: Measured) -> Report:
    """The report of one question about one clip."""
    clip, answer, model, meter = looked.clip, made.answer, made.model, made.meter
    seconds = {stage: looked.seconds[stage] + meter.seconds[stage] for stage in STAGES}
    timings = StageSeconds(**seconds, total=sum(seconds.values()))
    return Report(
        question=question,
        answer=answer.text,
        model=model.name,
        selector=made.selector,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        media=_media_use(clip),
        tokens=_token_use(made.kept, profile, len(model.decoder.layers)),
        timings_s=timings,
        speed=_speed(answer, timings),
        generated_tokens=len(answer.token_ids),
        finish_reason=answer.finish_reason,
        memory=MemoryUse(max(looked.peak_rss, meter.peak_rss), meter.peak_device(), answer.kv_cache_bytes),
        cache=CacheUse(looked.cache),
        settings=profile,
        warnings=(
            *clip.warnings,
            *made.notes,
            *missing(clip, looked.sampling),
            *unrecognised(clip, looked.features.video),
            *cut_short(answer),
        ),
        evidence=None if made.evidence is None else _evidence(media_tokens(made.kept.stream, clip), made.evidence),
        choices=made.choices,
    )


def counted_from(report: Report, seconds: float) -> Report:
    """The report of a program that began `seconds` ago and has just answered: what no stage took was its start."""
    timings = report.timings_s
    start = max(seconds - timings.total, 0.0)
    return replace(
        report,
        timings_s=replace(timings, start=timings.start + start, total=timings.total + start),
        speed=replace(report.speed, first_token_s=report.speed.first_token_s + start),
    )


def count_tokens(kept: KeptStream) -> TokenCounts:
    """Total and kept tokens of each modality."""
    whole = kept.stream.modality.cpu()
    part = whole[kept.indices.cpu()]
    video, audio, text = (
        TokenCount(int((whole == modality).sum()), int((part == modality).sum()))
        for modality in (Modality.VIDEO, Modality.AUDIO, Modality.TEXT)
    )
    return TokenCounts(video, audio, text)


def missing(clip: ClipSummary, sampling: Sampling) -> list[str]:
    """What the file lacks, or what the settings left out of it: the model knows nothing of that.

    That a still picture has no sound goes without saying.
    """
    name, notes = clip.info.path.name, []
    for what, has, wanted in (
        ("picture", clip.info.has_video, sampling.video),
        ("sound", clip.info.has_audio, sampling.audio),
    ):
        if not has and not clip.info.is_image:
            notes.append(f"{name} has no {what}")
        elif has and not wanted:
            notes.append(f"{name}: the {what} was switched off")
    return notes


def unrecognised(clip: ClipSummary, seen: VideoFeatures | SeenFeatures | None) -> list[str]:
    """Why little or nothing is known of the picture, at most one line; nothing where half of it was recognised.

    `seen`: the picture's features; of a tower's grids nothing can be told.
    """
    if not isinstance(seen, SeenFeatures) or not seen.frames:
        return []
    name, frames = clip.info.path.name, len(seen.frames)
    unknown = [sights for sights in seen.frames if not any(sight.kind in RECOGNISED for sight in sights)]
    if 2 * len(unknown) <= frames:
        return []
    why = Counter(_why(sights) for sights in unknown).most_common(1)[0][0]
    if len(unknown) < frames:
        because = f", mostly because they are {why}" if why else ""
        return [f"{name}: nothing was recognised in {len(unknown)} of {frames} frames{because}"]
    if why:
        return [f"{name}: the picture is {why}, nothing in it was recognised"]
    return [f"{name}: nothing in the picture was recognised"]


def _why(sights: Sequence[Sight]) -> str:
    """Why nothing was recognised in a frame: "black", "dark", "blurred", "blank", or "" if that is not known."""
    return next((s.kind if s.kind == "black" else s.text for s in sights if s.kind in ("black", "unsure")), "")


def cut_short(answer: Answer) -> list[str]:
    """Warnings about an answer that did not end by itself."""
    if answer.finish_reason == "length":
        return ["the answer was cut at --max-new-tokens"]
    if answer.finish_reason == "repetition":
        return ["the answer was stopped because it repeated itself"]
    return []


def _media_use(clip: ClipSummary) -> MediaUse:
    start, end = clip.range_s
    return MediaUse(
        path=str(clip.info.path),
        duration_s=round(clip.info.duration_s, 3),
        has_video=clip.info.has_video,
        has_audio=clip.info.has_audio,
        frames=len(clip.frame_times_s),
        range_s=(round(start, 3), round(end, 3)),
    )


def _token_use(kept: KeptStream, profile: Profile, layers: int) -> TokenUse:
    counts = count_tokens(kept)
    media = counts.media
    passed, modality = token_depths(kept, layers).double() / layers, kept.stream.modality.cpu()
    mean = MeanKept(*(float(passed[modality == kind].sum()) for kind in (Modality.VIDEO, Modality.AUDIO)))
    return TokenUse(
        counts.video,
        counts.audio,
        counts.text,
        keep_ratio=media.kept / media.total if media.total else None,
        requested=Requested(profile.keep, profile.budget),
        mean_keep_ratio=(mean.video + mean.audio) / media.total if media.total else None,
        mean_kept=mean,
    )


def _speed(answer: Answer, timings: StageSeconds) -> Speed:
    steps = max(len(answer.token_ids) - 1, 0)
    return Speed(
        first_token_s=timings.total - answer.decode_s - timings.evidence,
        decode_tokens_per_s=steps / answer.decode_s if steps and answer.decode_s else 0.0,
    )


def _evidence(tokens: MediaTokens, carried: np.ndarray) -> AnswerEvidence:
    """What carried the answer, of (n,) float32: the share of each sound and picture token."""
    video, audio = (float(carried[tokens.modality == m].sum()) for m in (Modality.VIDEO, Modality.AUDIO))
    return AnswerEvidence(RULE, EvidenceShares(video, audio), moments(tokens, carried))
