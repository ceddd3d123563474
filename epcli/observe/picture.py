"""The eye: small frozen parts look at the sampled frames of a clip and report what they see.

    frames ─┬▶ shots: stretches, dissolves, black and blurred frames
            ├▶ NanoDet ─▶ tracks of each stretch, named and counted ─▶ object sights
            ├▶ whole-frame classifier, backed off to what it is sure of ─▶ scene sights
            └▶ text reader, where the picture changes ─▶ text sights

A part that is not sure reports nothing; a frame in which neither thing nor scene is sure gets an unsure sight. Frames
that look alike are looked at once.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from epcli.observe import names, objects, scenes, shots
from epcli.observe.nanodet import Detection, load_nanodet
from epcli.observe.objects import Track
from epcli.observe.opinion import CERTAIN, TRUSTED, Opinion
from epcli.observe.scenes import SceneNamer
from epcli.observe.shots import Flags, Shots, find_shots
from epcli.observe.texts import TextReader
from epcli.records import Clip, Observation, SeenFeatures, Sight

OBJECTS = 8  # object sights a frame
SCENE_FRAMES = 8  # at most so many frames of a stretch have one scene name, which is that of their mean
SURE_ANIMAL = 0.9  # probability from which another animal is named beside one that the classifier hardly knows
READ_AGAIN_S = 2.0  # text is looked for again in a stretch after so long, if the picture changed
NEW = 16.0  # of 255: how much it must change over 32 x 32 pixels somewhere
SAME_LINE = 0.8  # share of letters that two readings of one line have in common
SOURCES = {"object": "nanodet", "scene": "efficientnet-lite0", "text": "rapidocr"}  # "level": from the pixels alone

Box = tuple[float, float, float, float]


class Reader(Protocol):
    """What reads text."""

    def read(self, frame: np.ndarray) -> list[tuple[str, float, Box]]:
        """(H, W, 3) uint8 RGB -> the lines of text in it: words, score, and box as shares of width and height."""


@dataclass(frozen=True)
class _Looked:
    """What the parts reported of the frames that they looked at, by frame."""

    shots: Shots
    clear: frozenset[int]  # frames that show one picture, not black and not of one colour
    detections: dict[int, list[Detection]]
    probabilities: dict[int, np.ndarray]


class Eye:
    """The parts that see, loaded. `see` may be called for any number of clips.

    Raises WeightsError if a part is not cached and cannot be downloaded.
    """

    def __init__(self, reader: Reader | None = None) -> None:
        """With another reader than the usual one, if any is given."""
        self._detector = load_nanodet()
        self._namer = SceneNamer()
        self._reader = reader or TextReader()

    def see(self, clip: Clip) -> SeenFeatures | None:
        """What is seen in the sampled frames; None without picture."""
        if clip.frames is None or clip.frame_times_s is None:
            return None
        frames, times = list(clip.frames), np.asarray(clip.frame_times_s, np.float64)
        looked = self._look(frames)
        sights: list[list[Sight]] = [[] for _ in frames]
        followed = 0
        for number, stretch in enumerate(looked.shots.stretches):
            if number:
                sights[stretch[0]].append(Sight("cut", "", 1.0))
            opinion = Opinion({k: looked.probabilities[k] for k in stretch if k in looked.clear})
            things = {k: objects.things_of(looked.detections[k]) for k in stretch if k in looked.clear}
            tracks = objects.follow(things, followed)
            followed += len(tracks)
            named = objects.name_tracks(tracks, sorted(things), opinion)
            counts = objects.counts(named, stretch)
            for piece in _pieces(stretch):
                scene = scene_sight(opinion.mean(piece), {track.name for track in named})
                for k in piece:
                    things_here = object_sights(k, stretch, named, counts)
                    sights[k] += _frame(looked.shots.flags[k], [*things_here, *([scene] if scene else [])])
        for k, lines in self._read(frames, times, looked).items():
            sights[k] += lines
        step_s = clip.duration_s / max(len(frames), 1)
        return SeenFeatures(tuple(tuple(frame) for frame in sights), torch.from_numpy(times), step_s)

    def _look(self, frames: list[np.ndarray]) -> _Looked:
        """Detector and classifier on each frame that differs from the one before."""
        found = find_shots(frames)
        shown = [k for k, flags in enumerate(found.flags) if not flags.black and not flags.blank]
        clear = frozenset(shown) - found.between
        different = sorted({found.looks_like[k] for k in clear})
        pictures = [frames[k] for k in different]
        place = {k: i for i, k in enumerate(different)}
        detections = self._detector.detect(pictures, objects.SEEN)
        probabilities = self._namer.probabilities(pictures)
        return _Looked(
            found,
            clear,
            {k: detections[place[found.looks_like[k]]] for k in clear},
            {k: probabilities[place[found.looks_like[k]]] for k in clear},
        )

    def _read(self, frames: list[np.ndarray], times: np.ndarray, looked: _Looked) -> dict[int, list[Sight]]:
        """The lines of text, by the frame in which each is read first. What is still there is not repeated."""
        found: dict[int, list[Sight]] = {}
        before: list[Sight] = []
        for stretch in looked.shots.stretches:
            here: list[Sight] = []
            last = -1
            for k in (k for k in stretch if k in looked.clear):
                if last >= 0 and not (
                    times[k] - times[last] >= READ_AGAIN_S and shots.change(frames[last], frames[k]) >= NEW
                ):
                    continue
                last = k
                lines = [Sight("text", text, round(score, 3), box) for text, score, box in self._reader.read(frames[k])]
                found[k] = [line for line in lines if not any(_same_line(line, old) for old in (*before, *here))]
                here += lines
            before = here
        return found


def _same_line(a: Sight, b: Sight) -> bool:
    """Whether two readings are of the same words. Letters may be misread; other digits are news."""
    if [c for c in a.text if c.isdigit()] != [c for c in b.text if c.isdigit()]:
        return False
    return SequenceMatcher(None, a.text.casefold(), b.text.casefold(), autojunk=False).ratio() >= SAME_LINE


def _pieces(stretch: range) -> list[range]:
    """A stretch in parts of about the same length, at most SCENE_FRAMES each."""
    parts = -(-len(stretch) // SCENE_FRAMES)
    edges = [stretch.start + round(i * len(stretch) / parts) for i in range(parts + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def _frame(flags: Flags, seen: list[Sight]) -> list[Sight]:
    """What is reported of one frame, if this is seen in it."""
    if flags.black:
        return [Sight("black", "", 1.0)]
    if flags.blank or not seen:
        return [Sight("unsure", flags.why, 1.0)]
    return seen


def scene_sight(p: np.ndarray | None, things: Set[str]) -> Sight | None:
    """(1000,) probabilities of a piece of film in which these things are seen -> what it shows, or None if unsure.

    Where the detector is sure of a thing and the classifier agrees, the question is only which kind. A broader
    kind of one of the things tells nothing new. Beside an animal that the classifier hardly knows, another animal
    is most likely that one (a cow is an ox to it).
    """
    if p is None:
        return None
    within, certain = p, 1.0
    for thing in things - TRUSTED:
        if (share := scenes.share(p, thing)) >= CERTAIN:
            within, certain = _given(p, thing), share
    named = scenes.name(within)
    if named is None or any(named[0] in names.kinds(thing) for thing in things):
        return None
    score = named[1] * certain
    beside = any("animal" in names.kinds(thing) for thing in TRUSTED & things)
    if beside and "animal" in names.kinds(named[0]) and score < SURE_ANIMAL:
        return None
    return Sight("scene", named[0], round(score, 3))


def _given(p: np.ndarray, thing: str) -> np.ndarray:
    """(1000,) probabilities, if it is certain that a `thing` is shown: which of its kinds it is."""
    of_it = np.array([thing in (each.name, *each.kinds) for each in names.classes()])
    return np.where(of_it, p, 0) / p[of_it].sum()


def object_sights(
    frame: int, stretch: range, tracks: Sequence[Track], counts: dict[str, dict[int, int]]
) -> list[Sight]:
    """The things of a frame, at most OBJECTS: the best of each name first, then the others, large ones first."""
    here = sorted(
        (track for track in tracks if frame in objects.span(track, stretch)),
        key=lambda track: -track.score * objects.side(track.box_at(frame)),
    )
    best: dict[str, int] = {}
    for track in here:
        best.setdefault(track.name, track.number)
    ordered = sorted(here, key=lambda track: best[track.name] != track.number)
    return [
        Sight(
            "object",
            track.name,
            round(track.score, 3),
            track.box_at(frame),
            max(1, counts[track.name][frame]),
            track.number,
        )
        for track in ordered[:OBJECTS]
    ]


def observations(seen: SeenFeatures, offset_s: float = 0.0) -> list[Observation]:
    """What is seen over time: the sights of one name in frames that follow each other are one observation.

    Times are those of `seen` plus `offset_s`, the seconds at which its range begins in the file. A frame stands for the
    time halfway to its neighbours. Text lasts until the picture changes.
    """
    starts, ends = _frame_spans(seen)
    cuts = [k for k, frame in enumerate(seen.frames) if any(sight.kind == "cut" for sight in frame)]
    found: list[Observation] = []
    for kind, name in sorted({(sight.kind, sight.text) for frame in seen.frames for sight in frame}):
        sights = {
            k: mine
            for k, frame in enumerate(seen.frames)
            if (mine := [sight for sight in frame if (sight.kind, sight.text) == (kind, name)])
        }
        for run in _runs(sorted(sights)) if kind not in ("text", "cut") else [[k] for k in sights]:
            last = run[-1]
            if kind == "text":
                last = next((cut for cut in cuts if cut > run[0]), len(seen.frames)) - 1
            mine = [sight for k in run for sight in sights[k]]
            largest = max(mine, key=lambda sight: objects.side(sight.box) if sight.box else 0.0)
            found.append(
                Observation(
                    kind,
                    name,
                    offset_s + starts[run[0]],
                    offset_s + (starts[run[0]] if kind == "cut" else ends[last]),
                    max(sight.score for sight in mine),
                    SOURCES.get(kind, "level"),
                    largest.box,
                    max(sight.count for sight in mine),
                )
            )
    return sorted(found, key=lambda each: (each.start_s, each.end_s))


def _frame_spans(seen: SeenFeatures) -> tuple[list[float], list[float]]:
    times = seen.times_s.tolist()
    middle = [(a + b) / 2 for a, b in pairwise(times)]
    half = seen.step_s / 2
    return [max(0.0, times[0] - half), *middle] if times else [], [*middle, times[-1] + half] if times else []


def _runs(frames: Sequence[int]) -> list[list[int]]:
    """Frames in which something is seen -> runs; one frame in between in which it is not seen does not end a run."""
    runs: list[list[int]] = []
    for k in frames:
        if runs and k - runs[-1][-1] <= 2:
            runs[-1].append(k)
        else:
            runs.append([k])
    return runs
