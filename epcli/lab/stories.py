"""Simulated scenes: what the parts report of a clip that nobody filmed. No picture is drawn.

A `Story` is a row of shots, each with things, a scene name, text on screen or nothing that can be recognised, and a
sound track from real recordings (`tracks.py`). `report` draws what the parts would say of each frame, with the errors
that were measured on real frames: a thing missed in some frames, another count, another score, letters misread.
Answers (`asking.py`) are made of what is reported, so what no part reports is never a true answer.
"""

from __future__ import annotations

import itertools
import random
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from epcli.lab.retold import Retold
from epcli.lab.scenes import Heard, frame_times
from epcli.lab.tracks import Track
from epcli.observe import names
from epcli.observe.nanodet import CLASSES
from epcli.records import SeenFeatures, Sight

Box = tuple[float, float, float, float]

# What home films show most, of what the detector names.
OFTEN = (
    "person",
    "car",
    "dog",
    "cat",
    "bird",
    "bicycle",
    "bus",
    "truck",
    "horse",
    "boat",
    "chair",
    "airplane",
    "train",
)
PEOPLE = "person"
UNNOTICED = 0.1  # share of cuts that are not reported
MOST = 12  # counted; more are "many"
CONFUSED = {
    "O": "0",
    "0": "O",
    "l": "I",
    "I": "l",
    "1": "l",
    "S": "5",
    "e": "c",
    "B": "8",
    "rn": "m",
    "a": "o",
    "u": "v",
}


@dataclass(frozen=True)
class Shown:
    """Things of one name in a shot."""

    name: str
    boxes: tuple[Box, ...]  # of each, at the beginning of the shot
    drift: tuple[float, float] = (0.0, 0.0)  # how far they move until the end


@dataclass(frozen=True)
class Shot:
    """A stretch without a cut."""

    start_s: float
    end_s: float
    things: tuple[Shown, ...] = ()
    scene: str = ""  # "": none that is sure
    sure: float = 0.0  # its probability
    texts: tuple[str, ...] = ()  # that appear at its beginning or later
    black: bool = False


@dataclass(frozen=True)
class Reported:
    """A shot as it is reported: what an answer may be made of."""

    start_s: float
    end_s: float
    counts: dict[str, int]  # objects of each name at a time, as in most frames
    boxes: dict[str, list[Box]]  # of each name, in one of the frames
    scene: str
    texts: tuple[str, ...]
    black: bool
    texts_s: tuple[float, ...] = ()  # when each text appears

    @property
    def unsure(self) -> bool:
        """Nothing but perhaps text was recognised."""
        return not (self.counts or self.scene or self.black)


@dataclass(frozen=True, eq=False)
class Story:
    """A simulated clip. No shots: no picture. No track: no sound."""

    duration_s: float
    shots: tuple[Reported, ...]
    seen: SeenFeatures | None
    track: Track | None

    @property
    def sounds(self) -> tuple[Heard, ...]:
        return () if self.track is None else self.track.parts


@cache
def _fine() -> tuple[str, ...]:
    return tuple(dict.fromkeys(names.fine_names()))


@cache
def _coarse() -> tuple[str, ...]:
    return tuple(dict.fromkeys(names.coarse_names()))


@cache
def _finer(name: str) -> tuple[str, ...]:
    """Scene names that are this thing: of "dog" all breeds."""
    return tuple(n for n in (*_fine(), *_coarse()) if name in names.kinds(n))


def draw_name(rng: random.Random) -> str:
    """A name that any part may report."""
    pool = rng.choices((OFTEN, CLASSES, _coarse(), _fine()), (3, 3, 3, 4))[0]
    return rng.choice(pool)


class StoryMaker:
    """Draws shots and what is reported of them."""

    def __init__(self, retold: Retold) -> None:
        """`retold`: its words stand on signs."""
        self.retold = retold

    # --- what there is -----------------------------------------------------------------------------------------

    def shots(self, rng: random.Random, duration_s: float, heard: Sequence[str], most: int) -> tuple[Shot, ...]:
        """Up to `most` shots; in some of them something that is also heard."""
        room = min(most, max(1, int(duration_s / 1.6)))
        often = (42, 30, 13, 7, 4, 4, 0, 0) if duration_s < 20 else (14, 18, 20, 16, 12, 10, 6, 4)
        count = min(rng.choices(range(1, 9), often)[0], room)
        for _ in range(50):
            inner = sorted(rng.uniform(1.0, duration_s - 1.0) for _ in range(count - 1))
            cuts = [0.0, *(round(c, 2) for c in inner), duration_s]
            if all(b - a >= 1.2 for a, b in itertools.pairwise(cuts)):
                break
        made: list[Shot] = []
        for a, b in itertools.pairwise(cuts):
            shot = self.shot(rng, a, b, heard)
            if made and self._alike(shot, made[-1]):
                shot = self.shot(rng, a, b, ())
            made.append(shot)
        if made and rng.random() < 0.12:  # a title that stands over everything, or first
            first = made[0]
            made[0] = Shot(
                first.start_s, first.end_s, first.things, first.scene, first.sure, self.texts(rng), first.black
            )
        return tuple(made)

    def _alike(self, a: Shot, b: Shot) -> bool:
        return {t.name for t in a.things} == {t.name for t in b.things} and a.scene == b.scene

    def shot(self, rng: random.Random, start_s: float, end_s: float, heard: Sequence[str]) -> Shot:
        kind = rng.random()
        texts = self.texts(rng) if rng.random() < 0.25 else ()
        if kind < 0.07:
            return Shot(start_s, end_s, texts=texts if rng.random() < 0.5 else (), black=True)
        if kind < 0.16:
            return Shot(start_s, end_s, texts=texts)
        wanted = [n for n in heard if n in CLASSES or names.kinds(n)]
        things: list[Shown] = []
        for number in range(rng.choices((0, 1, 2, 3, 4), (26, 38, 21, 10, 5))[0]):
            name = PEOPLE if rng.random() < 0.4 else rng.choice(OFTEN if rng.random() < 0.5 else CLASSES)
            if wanted and not number and rng.random() < 0.4:
                name = rng.choice(wanted)
            if name in CLASSES and all(t.name != name for t in things):
                things.append(self.shown(rng, name))
        scene, sure = "", 0.0
        if not things or rng.random() < 0.45:
            finer = [f for t in things for f in _finer(t.name)]
            if things and rng.random() < 0.2:
                scene = rng.choice(things).name
            elif finer and rng.random() < 0.5:
                scene = rng.choice(finer)
            elif wanted and rng.random() < 0.3:
                scene = rng.choice(wanted)
            else:
                scene = rng.choice(_coarse() if rng.random() < 0.4 else _fine())
            sure = round(rng.uniform(0.5, 0.97), 2)
        return Shot(start_s, end_s, tuple(things), scene, sure, texts)

    def shown(self, rng: random.Random, name: str) -> Shown:
        most = rng.choices(
            (1, 2, 3, 4, 5, 6, 8, 14), (44, 20, 12, 8, 6, 4, 4, 2) if name == PEOPLE else (64, 18, 8, 4, 3, 1, 1, 1)
        )[0]
        count = most if most <= 6 else rng.randint(7, most)
        size = rng.uniform(0.12, 0.85) / max(1.0, count**0.5)
        boxes = []
        for _ in range(count):
            width, height = size * rng.uniform(0.5, 1.1), size * rng.uniform(0.7, 1.2)
            left, top = rng.uniform(0, max(0.0, 1 - width)), rng.uniform(0, max(0.0, 1 - height))
            boxes.append((left, top, min(1.0, left + width), min(1.0, top + height)))
        drift = (rng.uniform(-0.5, 0.5), rng.uniform(-0.1, 0.1)) if rng.random() < 0.2 else (0.0, 0.0)
        return Shown(name, tuple(sorted(boxes, key=lambda b: -(b[2] - b[0]) * (b[3] - b[1]))), drift)

    def texts(self, rng: random.Random) -> tuple[str, ...]:
        return tuple(self.line(rng) for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0]))

    def line(self, rng: random.Random) -> str:
        """A line as signs, titles and captions have them."""
        kind = rng.random()
        if kind < 0.1:
            return str(rng.choice((rng.randint(1900, 2030), rng.randint(1, 999), rng.randint(1, 20))))
        words = [self.retold.word(rng) for _ in range(rng.choices((1, 2, 3, 4), (5, 4, 2, 1))[0])]
        if kind < 0.25:
            words.append(str(rng.choice((rng.randint(1900, 2030), rng.randint(1, 99)))))
        elif kind < 0.4:  # a name that is no word
            words[0] = "".join(rng.choice("bdfgklmnprstvw") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))
        style = rng.random()
        if style < 0.4:
            return " ".join(words).upper()
        return " ".join(w.capitalize() for w in words) if style < 0.8 else " ".join(words).capitalize()

    # --- what is reported of it ----------------------------------------------------------------------------------

    def report(
        self, rng: random.Random, shots: Sequence[Shot], duration_s: float, noise: float, most_frames: int
    ) -> tuple[SeenFeatures, tuple[Reported, ...]]:
        """Frame by frame, and shot by shot. `noise`: 0 for none, 1 as measured, more for worse."""
        times = frame_times(duration_s, min(1.0, most_frames / duration_s))
        frames: list[tuple[Sight, ...]] = []
        made: list[Reported] = []
        track = 0
        for shot in shots:
            inside = [float(t) for t in times if shot.start_s <= t < shot.end_s]
            if not inside:
                continue
            texts = tuple(self._misread(rng, line, noise) for line in shot.texts)
            mean = {t.name: min(0.97, max(0.46, rng.gauss(0.66, 0.13))) for t in shot.things}
            counted: dict[str, list[int]] = {t.name: [] for t in shot.things}
            boxes: dict[str, list[Box]] = {}
            missing = {t.name for t in shot.things if rng.random() < 0.06 * noise and len(shot.things) > 1}
            wrong = {
                t.name: rng.choice((-1, 1)) if len(t.boxes) > 2 and rng.random() < 0.15 * noise else 0
                for t in shot.things
            }
            scene = shot.scene if not shot.scene or rng.random() > 0.05 * noise else ""
            told = bool(made) and rng.random() > UNNOTICED * noise
            appear = self._appear(rng, len(texts), len(inside))
            for index, t in enumerate(inside):
                sights: list[Sight] = []
                if told and not index:
                    sights.append(Sight("cut", "", 1.0))
                if shot.black:
                    sights.append(Sight("black", "", 1.0))
                share = (t - shot.start_s) / (shot.end_s - shot.start_s)
                for thing in shot.things:
                    if thing.name in missing or (rng.random() < 0.08 * noise and len(inside) > 2):
                        continue
                    count = max(1, len(thing.boxes) + wrong[thing.name])
                    counted[thing.name].append(count)
                    placed = [self._moved(rng, thing, box, share, noise) for box in thing.boxes[:8]]
                    boxes[thing.name] = placed
                    for offset, box in enumerate(placed):
                        score = min(0.99, max(0.35, rng.gauss(mean[thing.name], 0.08)))
                        sights.append(Sight("object", thing.name, score, box, count, track + offset))
                if scene:
                    sights.append(Sight("scene", scene, shot.sure))
                elif not shot.things and not shot.black:
                    sights.append(Sight("unsure", "", 1.0))
                sights += [
                    Sight("text", text, rng.uniform(0.86, 1.0), self._line_box(rng, n))
                    for n, (text, at) in enumerate(zip(texts, appear, strict=True))
                    if at == index
                ]
                if not any(s.kind in ("object", "scene", "black", "unsure") for s in sights):
                    sights.append(Sight("unsure", "", 1.0))
                frames.append(tuple(sights))
            track += 8
            counts = {name: Counter(found).most_common(1)[0][0] for name, found in counted.items() if found}
            texts_s = tuple(inside[at] if at else shot.start_s for at in appear)
            made.append(Reported(shot.start_s, shot.end_s, counts, boxes, scene, texts, shot.black, texts_s))
        seen = SeenFeatures(tuple(frames), torch.from_numpy(times)[: len(frames)], duration_s / max(1, len(times)))
        return seen, tuple(made)

    def _appear(self, rng: random.Random, texts: int, frames: int) -> list[int]:
        """The frame of the shot in which each text is read first, ascending: together, or one after another."""
        if rng.random() < 0.5:
            return [0] * texts
        if rng.random() < 0.6:
            return [rng.randrange(frames)] * texts
        return sorted(rng.randrange(frames) for _ in range(texts))

    def _moved(self, rng: random.Random, thing: Shown, box: Box, share: float, noise: float) -> Box:
        shift = [d * share + rng.gauss(0, 0.01 * noise) for d in thing.drift]
        left, top, right, bottom = box[0] + shift[0], box[1] + shift[1], box[2] + shift[0], box[3] + shift[1]
        return tuple(min(1.0, max(0.0, v)) for v in (left, top, right, bottom))  # type: ignore[return-value]

    def _line_box(self, rng: random.Random, line: int) -> Box:
        left, top = rng.uniform(0, 0.5), min(0.9, rng.choice((0.08, 0.4, 0.75)) + 0.1 * line)
        return left, top, min(1.0, left + rng.uniform(0.2, 0.6)), min(1.0, top + 0.1)

    def _misread(self, rng: random.Random, line: str, noise: float) -> str:
        if rng.random() > 0.1 * noise:
            return line
        right, wrong = rng.choice(tuple(CONFUSED.items()))
        if right in line:
            return line.replace(right, wrong, 1)
        at = rng.randrange(len(line))
        return line[:at] + rng.choice(string.ascii_letters) + line[at + 1 :] if len(line) > 3 else line


def make_story(
    rng: random.Random,
    maker: StoryMaker,
    track: Track | None,
    duration_s: float,
    noise: float,
    *,
    most_shots: int,
    most_frames: int,
) -> Story:
    """A story around a sound track. `most_frames` 0: no picture."""
    if not most_frames:
        return Story(duration_s, (), None, track)
    heard = [t.name for part in track.parts for t in part.things] if track else []
    shots = maker.shots(rng, duration_s, heard, most_shots)
    seen, reported = maker.report(rng, shots, duration_s, noise, most_frames)
    return Story(duration_s, reported, seen, track)
