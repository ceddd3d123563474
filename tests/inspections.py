"""A made-up inspection with known contents, for the views: no model, no file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from epcli.config import Profile
from epcli.models.layout import WHOLE_PICTURE, AudioTokens, SightTokens, interleave, join
from epcli.records import (
    SAMPLE_RATE,
    STAGES,
    AnswerEvidence,
    AudioTrack,
    AvailableMemory,
    CacheUse,
    ClipSummary,
    ContextUse,
    EvidenceShares,
    Inspection,
    InspectionRun,
    MediaInfo,
    MediaTokens,
    MediaUse,
    MemoryUse,
    Modality,
    Plan,
    PlannedMedia,
    PlannedMemory,
    Preview,
    Report,
    Requested,
    Speed,
    StagePeaks,
    StageSeconds,
    TokenCount,
    TokenCounts,
    TokenStream,
    TokenUse,
)
from epcli.session.moments import media_tokens as tokens_of
from epcli.session.moments import moments
from epcli.sieve.select import keep_count

PLAN = Plan(
    model="ep-smol",
    selector="query-aware",
    device="cpu",
    dtype="bf16",
    quantize="none",
    media=PlannedMedia("film.mp4", 8.0, 8, (448, 256), has_video=True, has_audio=True),
    tokens=TokenCounts(TokenCount(224, 22), TokenCount(64, 6), TokenCount(64, 64)),
    context=ContextUse(used=220, limit=8192, fits=True),
    memory=PlannedMemory(*[100_000_000] * 10),
    stages=StagePeaks(vision=1_200_000_000, audio=900_000_000, sieve=1_500_000_000, prefill=800_000_000, decode=1),
    available=AvailableMemory(4_000_000_000, "free in this machine", fits=True),
    advice=(),
    notes=("one",),
)
HOSTILE = "<img src=x onerror=alert(1)><!--.mp4"  # a file may be called anything


def media_tokens(seconds: int = 8, rows: int = 4, columns: int = 7, width: int = 640, height: int = 360) -> MediaTokens:
    """A frame a second, and sound tokens of 0.125 s, in chunks of two seconds."""
    rows_ = []
    for chunk in range(0, seconds, 2):
        rows_ += [
            (Modality.VIDEO, float(f), f + 1.0, f, y, x)
            for f in range(chunk, min(chunk + 2, seconds))
            for y in range(rows)
            for x in range(columns)
        ]
        rows_ += [
            (Modality.AUDIO, a * 0.125, (a + 1) * 0.125, -1, -1, -1)
            for a in range(chunk * 8, min(chunk + 2, seconds) * 8)
        ]
    table = np.array(rows_, float)
    cells = table[:, 3:].astype(np.int16)
    boxes = np.full((len(table), 4), -1, np.int32)
    picture = table[:, 0] == Modality.VIDEO
    y, x = cells[picture, 1].astype(int), cells[picture, 2].astype(int)
    boxes[picture] = np.stack(
        [x * width // columns, y * height // rows, (x + 1) * width // columns, (y + 1) * height // rows], 1
    )
    return MediaTokens(table[:, 0].astype(np.uint8), table[:, 1:3], cells, boxes, (rows, columns))


def token_use(tokens: MediaTokens, kept: np.ndarray, keep: Any) -> TokenUse:
    """The counts of a made-up report."""
    video, audio = (
        TokenCount(int((tokens.modality == m).sum()), int(kept[tokens.modality == m].sum()))
        for m in (Modality.VIDEO, Modality.AUDIO)
    )
    return TokenUse(video, audio, TokenCount(36, 36), float(kept.mean()), Requested(keep, None))


def run(
    tokens: MediaTokens, question: str, answer: str, selector: str, keep: float, scores: np.ndarray
) -> InspectionRun:
    """What the keep share leaves of these scores, ties to the earlier; the evidence is where the scores are high."""
    n = len(scores)
    order = np.argsort(-scores, kind="stable")[: keep_count(n, keep)]
    kept = np.zeros(n, bool)
    kept[order] = True
    weights = np.where(kept, np.exp(scores - scores.max()), 0).astype(np.float32)
    weights /= weights.sum()
    stages = dict.fromkeys(STAGES, 0.0) | {"load": 0.7, "media": 1.1, "vision": 0.8, "audio": 0.3}
    stages |= {"sieve": 0.05, "prefill": 0.4, "decode": 0.5, "evidence": 0.02}
    report = Report(
        question=question,
        answer=answer,
        model="ep-smol",
        selector=selector,
        device="cpu",
        dtype="bfloat16",
        media=MediaUse(HOSTILE, 8.0, has_video=True, has_audio=True, frames=8, range_s=(0.0, 8.0)),
        tokens=token_use(tokens, kept, keep),
        timings_s=StageSeconds(**stages, total=sum(stages.values())),
        speed=Speed(first_token_s=2.5, decode_tokens_per_s=11.0),
        generated_tokens=6,
        finish_reason="stop",
        memory=MemoryUse(1_200_000_000, None, 900_000),
        cache=CacheUse("off"),
        settings=Profile(keep=keep),
        evidence=AnswerEvidence("made up", EvidenceShares(0.5, 0.5), moments(tokens, weights)),
    )
    return InspectionRun(
        report, kept, scores if selector in ("cs2", "cs2-per-modality", "query-aware") else None, weights
    )


def part(found: Inspection, where: np.ndarray, **changes: Any) -> Inspection:
    """The inspection with only some of its tokens, and what else changes with them."""
    tokens = found.tokens
    grid = tokens.grid if (tokens.modality[where] == Modality.VIDEO).any() else (0, 0)
    fewer = replace(
        tokens,
        modality=tokens.modality[where],
        spans_s=tokens.spans_s[where],
        cells=tokens.cells[where],
        boxes=tokens.boxes[where],
        grid=grid,
        observed=tokens.observed and grid != (0, 0),
        labels=tokens.labels and tuple(np.array(tokens.labels)[where].tolist()),
    )
    runs = []
    for each in found.runs:
        kept = each.kept[where]
        told = token_use(fewer, kept, each.report.settings.keep)
        scores = None if each.scores is None else each.scores[where]
        runs.append(InspectionRun(replace(each.report, tokens=told), kept, scores, each.evidence[where]))
    return replace(found, tokens=fewer, runs=tuple(runs), **changes)


def sound_only(found: Inspection) -> Inspection:
    """As of a sound file."""
    return part(
        found,
        found.tokens.modality == Modality.AUDIO,
        info=replace(found.info, video_codec=None, width=0, height=0, frame_rate=None),
        preview=replace(found.preview, frames=None, times_s=None),
    )


def silent(found: Inspection) -> Inspection:
    """As of a film without sound."""
    return part(
        found,
        found.tokens.modality == Modality.VIDEO,
        info=replace(found.info, audio_tracks=()),
        preview=replace(found.preview, samples=None, wave=None, mel=None),
    )


def still(found: Inspection) -> Inspection:
    """As of a picture file."""
    mute, first = silent(found), found.tokens.cells[found.tokens.modality == Modality.VIDEO, 0] == 0
    frames = mute.preview.frames
    assert frames is not None
    preview = replace(mute.preview, frames=frames[:1], times_s=np.zeros(1))
    made = part(mute, first, range_s=(0.0, 0.0), info=replace(mute.info, is_image=True), preview=preview)
    return replace(made, tokens=replace(made.tokens, spans_s=np.zeros_like(made.tokens.spans_s)))


KINDS = {"a film": lambda found: found, "sound only": sound_only, "silent": silent, "a picture": still}


def inspection(name: str = HOSTILE, selectors: tuple[str, ...] = ("query-aware",), keep: float = 0.1) -> Inspection:
    """Eight seconds: a bright square on the left at 2–4 s, a tone at 5–6 s; two questions, one about each."""
    tokens = media_tokens()
    draw = np.random.default_rng(5)
    middle = tokens.spans_s.mean(1)
    noise = draw.normal(0, 0.4, len(middle))
    seen = (tokens.modality == Modality.VIDEO) & (middle > 2) & (middle < 4) & (tokens.cells[:, 2] < 3)
    heard = (tokens.modality == Modality.AUDIO) & (middle > 5) & (middle < 6)
    asked = [
        ("What is on the left?", "A square <b>is</b> on the left.", seen),
        ("What do you hear?", "A tone & nothing else.", heard),
    ]
    runs = tuple(
        run(tokens, question, answer, selector, keep, np.round((where * 3 + noise) * 8).astype(np.float32) / 8)
        for question, answer, where in asked
        for selector in selectors
    )
    frames = np.full((8, 256, 448, 3), (70, 110, 160), np.uint8)
    frames += np.linspace(0, 60, 448).astype(np.uint8)[None, None, :, None]
    frames[2:4, 80:180, 40:150] = (250, 220, 90)
    frames[:, 150:210, 320:400] = (60, 160, 90)
    time = np.arange(8 * SAMPLE_RATE) / SAMPLE_RATE
    samples = (0.02 * draw.normal(size=len(time)) + 0.5 * np.sin(2760 * time) * ((time > 5) & (time < 6))).astype("f4")
    from epcli.session.preview import spectrogram, waveform

    info = MediaInfo(
        Path("films") / name,
        "mov",
        8.0,
        False,
        640,
        360,
        25.0,
        "h264",
        (AudioTrack(0, "aac", 2, 44_100, "eng", "</script><img src=x onerror=alert(2)>"),),
    )
    preview = Preview(frames, np.arange(8) + 0.5, samples, waveform(samples), spectrogram(samples))
    return Inspection(info, (0.0, 8.0), PLAN, tokens, preview, runs)


PERSON, DOG, SIGN = (0.05, 0.2, 0.25, 0.9), (0.7, 0.6, 0.95, 0.95), (0.4, 0.05, 0.6, 0.15)
SEEN = (  # frame, name, box and number of pieces of each sight
    *((frame, "street", WHOLE_PICTURE, 1) for frame in (0, 6)),
    *((frame, "person", tuple(x + 0.01 * frame for x in PERSON), 1) for frame in range(2, 7)),
    *((frame, "dog", DOG, 1) for frame in (1, 2)),
    (5, "text 'EXIT'", SIGN, 2),
    (6, "cut", WHOLE_PICTURE, 1),
)
SAID = {24: "' the'", 25: "' train'", 27: "' lea'", 28: "'ves'"}  # of 0.12 s each


def observed_stream(seen: Sequence[Any] = SEEN, seconds: int = 8, width: int = 8) -> TokenStream:
    """A frame a second, with any number of observations in each, none in the last; and sound with names."""
    rows = [row[:3] for row in sorted(seen) for _ in range(row[3])]
    frame, labels, boxes = zip(*rows, strict=True) if rows else ((), (), ())
    draw = torch.Generator().manual_seed(3)
    times = torch.arange(seconds, dtype=torch.float64) + 0.5
    video = SightTokens(
        torch.randn(len(rows), width, generator=draw),
        torch.tensor(frame, dtype=torch.int64),
        times,
        1.0,
        torch.tensor(boxes).view(-1, 4),
        tuple(labels),
    )
    count = round(seconds / 0.12)
    heard = tuple(SAID.get(i, "dog" if 33 <= i < 50 else "") for i in range(count))
    audio = AudioTokens(torch.randn(count, width, generator=draw), 3, labels=heard)
    return join(
        [interleave(video, audio, torch.randn(4, width, generator=draw), 2)], torch.float32, torch.device("cpu")
    )


def observed_tokens(seen: Sequence[Any] = SEEN, seconds: int = 8) -> MediaTokens:
    """The tokens of `observed_stream`, in 640 x 360 pixels."""
    info = replace(inspection().info, path=Path("film.mp4"))
    times = tuple(float(second) + 0.5 for second in range(seconds))
    return tokens_of(observed_stream(seen, seconds), ClipSummary(info, (0.0, float(seconds)), times, heard=True))


def observed_inspection(question: str = "What does the sign say?") -> Inspection:
    """The same eight seconds, looked at by a model whose picture tokens are observations."""
    found, tokens = inspection("street.mp4"), observed_tokens()
    labels = np.array(tokens.labels)
    scores = np.where(labels == "text 'EXIT'", 4.0, np.where(labels == "person", 3.0, np.where(labels == "dog", 1, 0)))
    scores = np.round((scores + np.random.default_rng(2).normal(0, 0.3, len(labels))) * 8).astype(np.float32) / 8
    return replace(found, tokens=tokens, runs=(run(tokens, question, "EXIT.", "query-aware", 0.1, scores),))
