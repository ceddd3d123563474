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
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from epcli.observe import names
from epcli.observe.nanodet import CLASSES, INSIDE, Detection, overlap, share_inside
from epcli.observe.opinion import CERTAIN, Opinion

SEEN = 0.25  # score from which a detection may continue a track
SURE = defaultdict(lambda: 0.5, {"person": 0.45})  # mean score from which a name counts
COUNTED = 0.4  # score from which a track of a name that counts is counted
AGREED, COUNTED_AGREED = 0.35, 0.3  # the same where the classifier agrees
FLASH = 0.6  # score from which a name counts that is seen too seldom: in a still picture, a moment of a long stretch
ONE_THING = 0.6  # overlap from which boxes of different names are one thing
CONTINUES = 0.3  # overlap from which a box continues a track
NEAR = 0.8  # or the distance of the centres, of the box's size
GAP = 2  # frames that a track may be unseen
PARTLY_INSIDE = 0.5  # share of a box in another of its name, from which it is a part of the same thing
WINDOW = 2  # frames before and after, over which a count is smoothed
ENOUGH_FRAMES = 3  # in a stretch longer than twice this, so many frames suffice
_ANIMALS = frozenset(name for name in CLASSES if "animal" in names.kinds(name))

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

    def without(self, names: set[str]) -> Track:
        """The same track without these names, and without the frames in which it had no other."""
        left = {k: Thing(t.box, {n: s for n, s in t.scores.items() if n not in names}) for k, t in self.things.items()}
        return Track(self.number, {frame: thing for frame, thing in left.items() if thing.scores})

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


def name_tracks(tracks: Sequence[Track], stretch: Sequence[int], opinion: Opinion) -> list[Track]:
    """Name the tracks of one stretch (the frames of it that were looked at) -> those that count."""
    found = {name for track in tracks for name in track.votes()}
    doubted = {name for name in found if _is_doubted(name, tracks, opinion)}
    undoubted = [rest for track in tracks if (rest := track.without(doubted)).things]
    counting = {name for name in found - doubted if _counts(name, undoubted, stretch, opinion)}
    counted = []
    for track in tracks:
        scores = _scores(track, doubted)
        track.name = _name(track, counting, opinion)
        if not track.name:
            continue
        track.score = fmean(thing.scores.get(track.name, max(thing.scores.values())) for thing in track.things.values())
        herd = track.name in _ANIMALS and opinion.agrees(track.name, track.things.keys())
        enough = len(track.things) >= min(_enough(stretch), len(stretch)) or max(scores) >= FLASH
        dense = len(track.things) * 2 >= track.last - track.first + 1
        if enough and dense and _best_half(scores) >= (COUNTED_AGREED if herd else COUNTED):
            counted.append(track)
    return _once(counted, {track.name for track in counted if opinion.agrees(track.name, track.things.keys())})


def _name(track: Track, counting: set[str], opinion: Opinion) -> str:
    """The name with the most votes among those that count, or "".

    Beside an animal that both parts are sure of, animals of which neither is sure are of its kind.
    """
    votes = track.votes()
    if here := {name: votes[name] for name in votes if name in counting}:
        return max(here, key=lambda name: here[name])
    agreed = [name for name in counting & _ANIMALS if opinion.agrees(name, track.things.keys(), CERTAIN)]
    return agreed[0] if agreed and max(votes, key=lambda name: votes[name]) in _ANIMALS else ""


def _scores(track: Track, doubted: set[str]) -> list[float]:
    """The best score of each frame, of names that are not doubted; of any, where all are."""
    rest = track.without(doubted)
    return [max(thing.scores.values()) for thing in (rest if rest.things else track).things.values()]


def _best_half(scores: Sequence[float]) -> float:
    """The mean of the higher half: a thing may be hidden for a while."""
    return fmean(sorted(scores, reverse=True)[: -(-len(scores) // 2)])


def _enough(stretch: Sequence[int]) -> int:
    """In so many frames of a stretch a thing must be seen. One look is never enough."""
    return min(ENOUGH_FRAMES, max(2, -(-len(stretch) // 2)))


def _is_doubted(name: str, tracks: Sequence[Track], opinion: Opinion) -> bool:
    """Whether the classifier knows better than this name, which stands on at least one track."""
    mine = [[(frame, thing) for frame, thing in track.things.items() if name in thing.scores] for track in tracks]
    best = max(fmean(thing.scores[name] for _, thing in things) for things in mine if things)
    area = max(side(thing.box) ** 2 for things in mine for _, thing in things)
    return opinion.doubts(name, best, area, {frame for things in mine for frame, _ in things})


def _counts(name: str, tracks: Sequence[Track], stretch: Sequence[int], opinion: Opinion) -> bool:
    """Whether a name counts in a stretch."""
    best: dict[int, float] = {}
    for track in tracks:
        votes = track.votes()
        if votes.get(name, 0.0) == max(votes.values()):
            for frame, thing in track.things.items():
                best[frame] = max(best.get(frame, 0.0), thing.scores.get(name, 0.0))
    seen = [score for score in best.values() if score >= COUNTED_AGREED]
    if not seen:
        return False
    if opinion.agrees(name, best.keys()):
        return fmean(seen) >= AGREED
    return fmean(seen) >= SURE[name] if len(seen) >= _enough(stretch) else max(seen) >= FLASH


def _once(tracks: list[Track], agreed: set[str]) -> list[Track]:
    """Without the tracks that lie on a surer one of the same name for most of their time: the same thing twice.

    Where a name counts from a lower score on because it is agreed, parts of the thing are found too.
    """
    kept: list[Track] = []
    for track in sorted(tracks, key=lambda track: -track.score * len(track.things)):
        part = track.name in agreed and track.score < SURE[track.name]
        least = PARTLY_INSIDE if part else INSIDE
        for other in kept:
            common = track.things.keys() & other.things.keys()
            on = sum(_on(track.things[k].box, other.things[k].box) >= least for k in common)
            if other.name == track.name and on * 2 > len(track.things):
                break
        else:
            kept.append(track)
    return sorted(kept, key=lambda track: track.number)


def _on(box: Box, other: Box) -> float:
    """The share of the smaller of two boxes that lies in the larger one."""
    return max(share_inside(box, other), share_inside(other, box))


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
