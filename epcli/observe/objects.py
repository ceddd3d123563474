"""Detections become things that stay the same from frame to frame, named by vote and counted.

1. Boxes of one frame that lie on each other are one thing with a score for each name (horse .6, cow .5).
2. A thing continues the track whose last box it overlaps or lies next to.
3. A name counts in a stretch if its things' mean score is high enough, in enough frames; where a classifier of whole
   frames knows better, it may object or agree.
4. A track bears the name with the most votes among those that count, and counts itself from a lower score on: beside
   two sure horses a third one is likely.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from epcli.observe.nanodet import Detection, overlap, share_inside

SEEN = 0.25  # score from which a detection may continue a track
SURE = defaultdict(lambda: 0.5, {"person": 0.45})  # mean score from which a name counts
COUNTED = 0.4  # score from which a track of a name that counts is counted
AGREED = 0.35  # and the mean score that suffices for a name which the classifier agrees with
FLASH = 0.65  # score from which a name counts that is seen in one or two frames of a long stretch
ONE_THING = 0.6  # overlap from which boxes of different names are one thing
CONTINUES = 0.3  # overlap from which a box continues a track
NEAR = 0.8  # or the distance of the centres, of the box's size
GAP = 2  # frames that a track may be unseen
WINDOW = 2  # frames before and after, over which a count is smoothed
ENOUGH_FRAMES = 3  # in a stretch longer than twice this, so many frames suffice

Box = tuple[float, float, float, float]


@dataclass
class Thing:
    """What is at one place in one frame."""

    box: Box
    scores: dict[str, float]  # of each name


@dataclass
class Track:
    """One thing over frames."""

    number: int
    things: dict[int, Thing] = field(default_factory=dict)  # by frame
    name: str = ""  # "" until it is named, and where no name counts
    score: float = 0.0  # mean score of that name

    @property
    def first(self) -> int:
        return min(self.things)

    @property
    def last(self) -> int:
        return max(self.things)

    def votes(self) -> dict[str, float]:
        """The sum of the scores of each name."""
        votes: dict[str, float] = defaultdict(float)
        for thing in self.things.values():
            for name, score in thing.scores.items():
                votes[name] += score
        return votes

    def box_at(self, frame: int) -> Box:
        """The box in that frame, or in the frame nearest to it in which the thing was seen."""
        return self.things[min(self.things, key=lambda seen: abs(seen - frame))].box


def things_of(detections: Sequence[Detection]) -> list[Thing]:
    """The detections of one frame, surest first -> its things."""
    things: list[Thing] = []
    for found in detections:
        on = next((thing for thing in things if overlap(thing.box, found.box) >= ONE_THING), None)
        if on is None or found.name in on.scores:
            things.append(Thing(found.box, {found.name: found.score}))
        else:
            on.scores[found.name] = found.score
    return things


def follow(frames: dict[int, list[Thing]], first_number: int = 0) -> list[Track]:
    """The things of the frames of one stretch, by frame -> tracks, numbered from `first_number` on."""
    tracks: list[Track] = []
    for frame, things in sorted(frames.items()):
        open_tracks = [track for track in tracks if frame - track.last <= GAP + 1]
        pairs = sorted(
            (
                (closeness, -track.number, index)
                for track in open_tracks
                for index, thing in enumerate(things)
                if (closeness := _closeness(track.things[track.last], thing)) > 0
            ),
            reverse=True,
        )
        taken: set[int] = set()
        by_number = {track.number: track for track in open_tracks}
        for _, minus_number, index in pairs:
            track = by_number.get(-minus_number)
            if track is not None and index not in taken:
                track.things[frame] = things[index]
                taken.add(index)
                del by_number[track.number]
        for index, thing in enumerate(things):
            if index not in taken:
                tracks.append(Track(first_number + len(tracks), {frame: thing}))
    return tracks


def _closeness(before: Thing, after: Thing) -> float:
    """0 where it cannot be the same thing; larger is likelier. A common name counts as much as half an overlap."""
    same_name = bool(before.scores.keys() & after.scores.keys())
    both = overlap(before.box, after.box)
    if both >= CONTINUES:
        return both + 0.5 * same_name
    if not same_name:
        return 0.0
    size = max(side(before.box), side(after.box))
    (x, y), (other_x, other_y) = _centre(before.box), _centre(after.box)
    distance = ((x - other_x) ** 2 + (y - other_y) ** 2) ** 0.5 / max(size, 1e-6)
    alike = min(side(before.box), side(after.box)) / max(size, 1e-6)
    return 0.3 * (1 - distance / NEAR) if distance < NEAR and alike > 0.5 else 0.0


def side(box: Box) -> float:
    """The square root of its area."""
    return max((box[2] - box[0]) * (box[3] - box[1]), 0.0) ** 0.5


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def name_tracks(
    tracks: Sequence[Track],
    stretch: Sequence[int],
    objects_to: Callable[[str, float], bool] = lambda name, area: False,
    agrees: Callable[[str], bool] = lambda name: False,
) -> list[Track]:
    """Name the tracks of one stretch (its frames) -> those that count.

    `objects_to(name, area)` and `agrees(name)` are the word of a classifier of whole frames. `area` is the share of
    the picture that the largest thing takes.
    """
    names = {
        name
        for name in {name for track in tracks for name in track.votes()}
        if _counts(name, tracks, stretch, objects_to, agrees)
    }
    counted = []
    for track in tracks:
        votes = {name: votes for name, votes in track.votes().items() if name in names}
        if not votes:
            continue
        track.name = max(votes, key=lambda name: votes[name])
        scores = [max(thing.scores.values()) for thing in track.things.values()]
        own = [thing.scores[track.name] for thing in track.things.values() if track.name in thing.scores]
        track.score = fmean(own)
        lives = track.last - track.first + 1
        enough = len(track.things) >= min(ENOUGH_FRAMES, max(1, -(-len(stretch) // 2))) or max(scores) >= FLASH
        least = AGREED if agrees(track.name) else COUNTED
        if enough and len(track.things) * 2 >= lives and _best_half(scores) >= least:
            counted.append(track)
    return _once(counted)


def _best_half(scores: Sequence[float]) -> float:
    """The mean of the higher half: a thing may be hidden for a while."""
    return fmean(sorted(scores, reverse=True)[: -(-len(scores) // 2)])


def _counts(
    name: str,
    tracks: Sequence[Track],
    stretch: Sequence[int],
    objects_to: Callable[[str, float], bool],
    agrees: Callable[[str], bool],
) -> bool:
    """Whether a name counts in a stretch."""
    best: dict[int, float] = {}
    area = 0.0
    for track in tracks:
        votes = track.votes()
        if votes.get(name, 0.0) < max(votes.values()):
            continue
        for frame, thing in track.things.items():
            if name in thing.scores and thing.scores[name] > best.get(frame, 0.0):
                best[frame] = thing.scores[name]
                area = max(area, side(thing.box) ** 2)
    if not best or objects_to(name, area):
        return False
    seen = [score for score in best.values() if score >= 0.3] or [0.0]
    if agrees(name):
        return fmean(seen) >= AGREED
    long_enough = len(seen) >= min(-(-len(stretch) // 2), ENOUGH_FRAMES)
    return fmean(seen) >= SURE[name] if long_enough else max(seen) >= FLASH


def _once(tracks: list[Track]) -> list[Track]:
    """Without tracks that lie inside a surer one of the same name for most of their time: the same thing twice."""
    kept: list[Track] = []
    for track in sorted(tracks, key=lambda track: -track.score * len(track.things)):
        for other in kept:
            common = track.things.keys() & other.things.keys()
            inside = sum(share_inside(track.things[k].box, other.things[k].box) >= 0.8 for k in common)
            if other.name == track.name and inside * 2 > len(track.things):
                break
        else:
            kept.append(track)
    return sorted(kept, key=lambda track: track.number)


def span(track: Track, stretch: range) -> range:
    """The frames in which a thing is: from the first in which it was seen to the last, or to the stretch's ends, if
    these are near (a thing is often missed in a frame)."""
    first = stretch.start if track.first - stretch.start <= GAP else track.first
    end = stretch.stop if stretch.stop - 1 - track.last <= GAP else track.last + 1
    return range(first, end)


def counts(tracks: Sequence[Track], stretch: range) -> dict[str, dict[int, int]]:
    """How many of each name are in each frame of a stretch, the median over WINDOW frames on both sides."""
    smooth: dict[str, dict[int, int]] = {}
    for name in {track.name for track in tracks}:
        mine = [track for track in tracks if track.name == name]
        raw = [sum(frame in span(track, stretch) for track in mine) for frame in stretch]
        smooth[name] = {}
        for k, frame in enumerate(stretch):
            window = raw[max(0, k - WINDOW) : k + WINDOW + 1]
            smooth[name][frame] = int(median(window) + 0.5)
    return smooth
