"""The report of an answer: everything that was measured, put into one record."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from epcli.config import Profile
from epcli.models.family import AVModel
from epcli.records import Answer, ClipSummary, KeptStream, MediaTokens, Modality, Report
from epcli.session.clips import EncodedClip
from epcli.session.evidence import RULE
from epcli.session.meter import STAGES, Meter
from epcli.session.moments import moments

HEARING = (
    "hear",
    "sound",
    "listen",
    "said",
    "say",
    "speak",
    "spoken",
    "voice",
    "noise",
    "music",
    "instrument",
    "loud",
    "audio",
    "sing",
    "talk",
)
SEEING = (
    "see",
    "look",
    "colour",
    "color",
    "picture",
    "visible",
    "shown",
    "watch",
    "frame",
    "left",
    "right",
    "background",
)


def build_report(
    question: str,
    profile: Profile,
    looked: EncodedClip,
    model: AVModel,
    kept: KeptStream,
    answer: Answer,
    meter: Meter,
    selector: str,
    notes: list[str],
) -> Report:
    clip = looked.clip
    seconds = {stage: looked.seconds[stage] + meter.seconds[stage] for stage in STAGES}
    counts = count_tokens(kept)
    all_av, kept_av = (sum(counts[m][which] for m in ("video", "audio")) for which in ("total", "kept"))
    steps = max(len(answer.token_ids) - 1, 0)
    return Report(
        question=question,
        answer=answer.text,
        model=model.name,
        selector=selector,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        media={
            "path": str(clip.info.path),
            "duration_s": round(clip.info.duration_s, 3),
            "has_video": clip.info.has_video,
            "has_audio": clip.info.has_audio,
            "frames": len(clip.frame_times_s),
            "range_s": [round(t, 3) for t in clip.range_s],
        },
        tokens={
            **counts,
            "keep_ratio": kept_av / all_av if all_av else None,
            "requested": {"keep": profile.keep, "budget": profile.budget},
        },
        timings_s={**seconds, "total": sum(seconds.values())},
        speed={
            "first_token_s": sum(seconds.values()) - answer.decode_s - seconds["evidence"],
            "decode_tokens_per_s": steps / answer.decode_s if steps and answer.decode_s else 0.0,
        },
        generated_tokens=len(answer.token_ids),
        finish_reason=answer.finish_reason,
        memory={
            "peak_rss_bytes": max(looked.peak_rss, meter.peak_rss),
            "peak_device_bytes": meter.peak_device(),
            "kv_cache_bytes": answer.kv_cache_bytes,
        },
        cache={"features": looked.cache},
        settings=asdict(profile),
        warnings=(*clip.warnings, *notes, *unanswerable(question, clip), *cut_short(answer)),
    )


def evidence_report(tokens: MediaTokens, carried: np.ndarray) -> dict[str, Any]:
    """The report's account of what carried the answer."""
    shares = {m.name.lower(): float(carried[tokens.modality == m].sum()) for m in (Modality.VIDEO, Modality.AUDIO)}
    return {
        "rule": RULE,
        "shares": shares,
        "moments": [asdict(moment) for moment in moments(tokens, carried)],
    }


def count_tokens(kept: KeptStream) -> dict[str, dict[str, int]]:
    """Total and kept tokens of each modality."""
    whole = kept.stream.modality.cpu()
    part = whole[kept.indices.cpu()]
    return {
        m.name.lower(): {"total": int((whole == m).sum()), "kept": int((part == m).sum())}
        for m in (Modality.VIDEO, Modality.AUDIO, Modality.TEXT)
    }


def unanswerable(question: str, clip: ClipSummary) -> list[str]:
    """Warnings about a question for which there are no tokens."""
    words = question.lower()
    name = clip.info.path.name
    found = []
    if not clip.heard and any(w in words for w in HEARING):
        why = "sound was switched off" if clip.info.has_audio else "the file has no sound"
        found.append(f"{name}: the question is about sound, but {why}")
    if not clip.frame_times_s and any(w in words.split() or w in words for w in SEEING):
        why = "pictures were switched off" if clip.info.has_video else "the file has no picture"
        found.append(f"{name}: the question is about the picture, but {why}")
    return found


def cut_short(answer: Answer) -> list[str]:
    """Warnings about an answer that did not end by itself."""
    if answer.finish_reason == "length":
        return ["the answer was cut at --max-new-tokens"]
    if answer.finish_reason == "repetition":
        return ["the answer was stopped because it repeated itself"]
    return []
