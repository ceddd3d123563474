"""The eye: small frozen parts look at the sampled frames of a clip and report what they see.

    frames ─┬▶ shots: stretches, dissolves, black and blurred frames
            ├▶ NanoDet ─▶ tracks of each stretch, named and counted ─▶ object sights
            ├▶ whole-frame classifier, backed off to what it is sure of ─▶ scene sights, or unsure
            └▶ text reader, where the picture changes ─▶ text sights

A part that is not sure reports nothing. Frames that look alike are looked at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from epcli.observe import objects
from epcli.observe.nanodet import load_nanodet
from epcli.observe.objects import Track
from epcli.observe.shots import Shots, find_shots
from epcli.records import Clip, SeenFeatures, Sight

OBJECTS = 8  # object sights a frame


class Eye:
    """The parts that see, loaded. `see` may be called for any number of clips."""

    def __init__(self) -> None:
        self._detector = load_nanodet()

    def see(self, clip: Clip) -> SeenFeatures | None:
        """What is seen in the sampled frames; None without picture."""
        if clip.frames is None or clip.frame_times_s is None:
            return None
        frames = list(clip.frames)
        shots = find_shots(frames)
        shown = [k for k, flags in enumerate(shots.flags) if not flags.black and not flags.blank]
        looked_at = sorted({shots.looks_like[k] for k in shown} - shots.between)
        detections = dict(
            zip(looked_at, self._detector.detect([frames[k] for k in looked_at], objects.SEEN), strict=True)
        )
        sights: list[list[Sight]] = [[] for _ in frames]
        tracks_so_far = 0
        for number, stretch in enumerate(shots.stretches):
            if number:
                sights[stretch[0]].append(Sight("cut", "", 1.0))
            clear = [k for k in stretch if k in shown and shots.looks_like[k] in detections]
            tracks = objects.follow(
                {k: objects.things_of(detections[shots.looks_like[k]]) for k in clear}, tracks_so_far
            )
            tracks_so_far += len(tracks)
            named = objects.name_tracks(tracks, clear)
            counts = objects.counts(named, stretch)
            for k in stretch:
                sights[k] += self._frame(k, stretch, shots, named, counts)
        step_s = clip.duration_s / max(len(frames), 1)
        times = torch.from_numpy(np.asarray(clip.frame_times_s, np.float64))
        return SeenFeatures(tuple(tuple(frame) for frame in sights), times, step_s)

    def _frame(
        self, k: int, stretch: range, shots: Shots, named: Sequence[Track], counts: dict[str, dict[int, int]]
    ) -> list[Sight]:
        if shots.flags[k].black:
            return [Sight("black", "", 1.0)]
        found = object_sights(k, stretch, named, counts)
        return found or [Sight("unsure", "", 1.0)]


def object_sights(
    frame: int, stretch: range, tracks: Sequence[Track], counts: dict[str, dict[int, int]]
) -> list[Sight]:
    """The things of a frame, at most OBJECTS: the surest of each name first, then the others, the largest first."""
    here = sorted(
        (track for track in tracks if frame in objects.span(track, stretch)),
        key=lambda track: -track.score * objects.side(track.box_at(frame)),
    )
    first_of = {track.name: track for track in reversed(here)}
    ordered = [*(t for t in here if first_of[t.name] is t), *(t for t in here if first_of[t.name] is not t)]
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
