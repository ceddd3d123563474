"""Numbers that several views of an inspection show: each is worked out here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from epcli.records import Inspection, InspectionRun, MediaInfo, MediaTokens, Modality
from epcli.session.moments import QUOTED, place_words, spoken
from epcli.text import format_range

WORDS = {"video": "picture", "audio": "sound"}
MODALITIES = (Modality.VIDEO, Modality.AUDIO)
ONE_STRETCH_S = 1.0  # what is observed again so soon is one stretch of time
LONGEST_SIDE = 5  # times the other: a picture of 2 x 4096 pixels drawn in its own shape would fill gigabytes


@dataclass(frozen=True)
class Sighted:
    """Something that was observed in one frame."""

    name: str
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels of the displayed picture
    whole: bool  # it is of the whole picture: a scene, a cut
    where: str  # "lower left"; "" where it fills more than half of the picture
    places: tuple[int, ...]  # its tokens


@dataclass(frozen=True)
class Observed:
    """Everything of one name that was observed in the clip, or all that was said in it."""

    name: str
    modality: Modality
    spans_s: tuple[tuple[float, float], ...]  # when: starts and ends, seconds of the file
    places: tuple[int, ...]  # its tokens

    @property
    def when(self) -> str:
        """In words: "0:02–0:07", "0:00–0:01, 0:06–0:07", "0:00–0:09, 5 times"; "" where there is no time."""
        spans = [(round(start, 1), round(end, 1)) for start, end in self.spans_s]
        if spans[-1][1] <= spans[0][0]:
            return ""
        if len(spans) > 2:
            return f"{format_range(spans[0][0], spans[-1][1])}, {len(spans)} times"
        return ", ".join(format_range(*span) for span in spans)


def drawn_size(info: MediaInfo) -> tuple[float, float]:
    """(width, height) of the shape that views draw the picture in: as displayed, thickened if it is a mere line."""
    return max(info.width, info.height / LONGEST_SIDE, 1), max(info.height, info.width / LONGEST_SIDE, 1)


def modalities(tokens: MediaTokens) -> list[Modality]:
    """Those that the clip has."""
    return [modality for modality in MODALITIES if (tokens.modality == modality).any()]


def share_over_time(
    tokens: MediaTokens, kept: np.ndarray, modality: Modality, range_s: tuple[float, float], columns: int
) -> np.ndarray:
    """(columns,) float64: of the tokens of each stretch of time, by their time in it, the share kept; NaN without any.

    A still picture has no time: all its columns are the same.
    """
    start, end = range_s
    of = tokens.modality == modality
    if end <= start:
        return np.full(columns, kept[of].mean() if of.any() else math.nan)
    edges = np.linspace(start, end, columns + 1)
    begin, stop = tokens.spans_s[of].T
    inside = np.minimum(stop[:, None], edges[1:]) - np.maximum(begin[:, None], edges[:-1])
    inside = inside.clip(0)
    total = inside.sum(0)
    with np.errstate(invalid="ignore"):
        return np.where(total > 1e-9, (inside * kept[of, None]).sum(0) / total, math.nan)


def kept_by_frame(tokens: MediaTokens, values: np.ndarray) -> np.ndarray:
    """(n,) values of the tokens -> (G,) their sum over the cells of each frame; (0,) without picture."""
    picture = tokens.modality == Modality.VIDEO
    return np.bincount(tokens.cells[picture, 0].astype(np.int64), values[picture]) if picture.any() else np.zeros(0)


def frame_grid(tokens: MediaTokens, values: np.ndarray, frame: int) -> np.ndarray:
    """(rows, columns) the values of a frame's cells."""
    places = np.flatnonzero((tokens.modality == Modality.VIDEO) & (tokens.cells[:, 0] == frame))
    grid = np.zeros(tokens.grid, values.dtype)
    grid[tokens.cells[places, 1], tokens.cells[places, 2]] = values[places]
    return grid


def frame_starts(inspection: Inspection) -> np.ndarray:
    """(G,) seconds from which each frame is shown; (0,) without picture."""
    tokens, times = inspection.tokens, inspection.preview.times_s
    if times is None:
        return np.zeros(0)
    starts = np.concatenate([[inspection.range_s[0]], (times[1:] + times[:-1]) / 2])
    picture = tokens.modality == Modality.VIDEO
    starts[tokens.cells[picture, 0]] = tokens.spans_s[picture, 0]
    return starts


def sighted(tokens: MediaTokens, frame: int) -> list[Sighted]:
    """What was observed in a frame, in order; nothing where the picture's tokens are the cells of a grid."""
    if not tokens.observed:
        return []
    found: dict[tuple[str, tuple[int, int, int, int]], list[int]] = {}
    for place in np.flatnonzero((tokens.modality == Modality.VIDEO) & (tokens.cells[:, 0] == frame)).tolist():
        left, top, right, bottom = tokens.boxes[place].tolist()
        found.setdefault((tokens.labels[place] if tokens.labels else "", (left, top, right, bottom)), []).append(place)
    (width, height), made = tokens.size, []
    for (name, box), places in found.items():
        left, top, right, bottom = box
        wide = (right - left) * (bottom - top) > width * height / 2
        where = "" if wide else place_words((left + right) / 2 / width, (top + bottom) / 2 / height)
        made.append(Sighted(name, box, box == (0, 0, width, height), where, tuple(places)))
    return made


def observed(tokens: MediaTokens) -> list[Observed]:
    """What was observed in the clip by name, in order of time; nothing where tokens have no names."""
    if tokens.labels is None:
        return []
    found: dict[tuple[int, str], list[int]] = {}
    for place, name in enumerate(tokens.labels):
        if name:
            found.setdefault((int(tokens.modality[place]), QUOTED if name[0] == QUOTED else name), []).append(place)
    return [
        Observed(
            spoken(tokens, places) if name == QUOTED else name,
            Modality(modality),
            _stretches(tokens.spans_s[places]),
            tuple(places),
        )
        for (modality, name), places in found.items()
    ]


def _stretches(spans: np.ndarray) -> tuple[tuple[float, float], ...]:
    """(n, 2) ascending starts and ends -> the same with those joined that are no more than ONE_STRETCH_S apart."""
    joined = [spans[0].tolist()]
    for start, end in spans[1:].tolist():
        if start - joined[-1][1] <= ONE_STRETCH_S:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return tuple((start, end) for start, end in joined)


def kept_of(places: Sequence[int], kept: np.ndarray) -> int:
    """How many of these tokens were kept."""
    return int(kept[list(places)].sum())


def decisive_frames(tokens: MediaTokens, run: InspectionRun, most: int) -> list[int]:
    """The frames that matter most, in order of time: with most evidence, else with most kept cells."""
    weights = kept_by_frame(tokens, run.evidence)
    if not weights.any():
        weights = kept_by_frame(tokens, run.kept.astype(float))
    best = np.argsort(-weights, kind="stable")[:most]
    return sorted(int(frame) for frame in best if weights[frame] > 0)


def overlap(run: InspectionRun, other: InspectionRun) -> float:
    """Of the tokens that `run` kept, the share that `other` kept too."""
    return float((run.kept & other.kept).sum() / max(run.kept.sum(), 1))


def run_names(runs: Sequence[InspectionRun]) -> list[str]:
    """What tells the runs apart: the question where there are several, the selector where there are several."""
    questions = {run.report.question for run in runs}
    selectors = {run.report.selector for run in runs}
    names = []
    for run in runs:
        parts = [run.report.question] * (len(questions) > 1) + [run.report.selector] * (len(selectors) > 1)
        names.append(" · ".join(parts) or run.report.question)
    return names


def streams(inspection: Inspection) -> list[dict[str, Any]]:
    """The streams of the file: what it is, codec and shape."""
    info = inspection.info
    found: list[dict[str, Any]] = []
    if info.has_video:
        found.append(
            {
                "kind": "picture",
                "codec": info.video_codec,
                "width": info.width,
                "height": info.height,
                "frame_rate": None if info.is_image else info.frame_rate,
            }
        )
    found += [
        {
            "kind": "sound",
            "codec": track.codec,
            "channels": track.channels,
            "sample_rate": track.sample_rate,
            "language": track.language,
            "title": track.title,
        }
        for track in info.audio_tracks
    ]
    return found


def stream_words(stream: dict[str, Any]) -> str:
    """One stream in a line: "h264, 640 x 360, 25 frames a second"."""
    facts = [stream["codec"]]
    if stream["kind"] == "picture":
        facts.append(f"{stream['width']} x {stream['height']}")
        if stream["frame_rate"]:
            facts.append(f"{stream['frame_rate']:.4g} frames a second")
    else:
        channels = {1: "mono", 2: "stereo"}.get(stream["channels"], f"{stream['channels']} channels")
        facts += [channels, f"{stream['sample_rate'] / 1000:g} kHz", stream["language"], stream["title"]]
    return ", ".join(fact for fact in facts if fact)


def leaving(run: InspectionRun) -> str:
    """How many tokens are left after each layer that drops some; empty where none leave inside the decoder."""
    if run.layers is None or not run.report.tokens.leaves_inside:
        return ""
    depths = sorted(set(run.layers[run.kept].tolist()))
    steps = ", ".join(f"{int((run.layers > layer).sum()):,} after layer {layer}" for layer in depths)
    mean = run.report.tokens.mean_keep_ratio or 0
    entered = f"{int(run.kept.sum()):,} entered the language model"
    return f"{entered}, then stayed: {steps}; {mean:.1%} on average over its layers"
