"""Scenes for training and measuring: a script of what is seen and heard when, and its rendering to a Clip.

A `Script` is symbolic: which things stand where in the picture from when to when, which sounds play, what is said. From
one script come the questions with their true answers (`questions.py`), the rendered `Clip` (`render`), and for the
warm-up the label of every token (`frame_labels`, `sound_labels`). Pictures and sounds come from a `Library`, the folder
that `python -m epcli.lab.sources` writes, whose split keeps held-out sources apart.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import soundfile

from epcli.records import SAMPLE_RATE, Clip, MediaInfo

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (200, 40, 40),
    "green": (50, 155, 70),
    "blue": (50, 85, 205),
    "yellow": (235, 210, 60),
    "white": (244, 244, 244),
    "black": (24, 24, 24),
    "orange": (238, 138, 40),
    "purple": (130, 60, 165),
    "pink": (244, 160, 190),
    "gray": (128, 128, 128),
    "brown": (120, 75, 40),
}
# Where an object's centre lies, as shares of width and height.
PLACES: dict[str, tuple[float, float]] = {
    "on the left": (0.25, 0.5),
    "on the right": (0.75, 0.5),
    "in the middle": (0.5, 0.5),
    "at the top": (0.5, 0.25),
    "at the bottom": (0.5, 0.75),
    "in the top left": (0.25, 0.27),
    "in the top right": (0.75, 0.27),
    "in the bottom left": (0.25, 0.73),
    "in the bottom right": (0.75, 0.73),
}
SIZES = [(320, 192), (320, 192), (448, 256), (256, 256), (192, 320)]  # width, height in pixels
LAYOUTS: list[list[str]] = [
    *([p] for p in PLACES),
    *([["in the middle"]] * 3),
    *([["on the left", "on the right"]] * 5),
    *([["at the top", "at the bottom"]] * 2),
    ["on the left", "in the middle", "on the right"],
    ["in the top left", "in the top right", "in the bottom left", "in the bottom right"],
]


@dataclass(frozen=True)
class Thing:
    """Something that can be named, with what can be seen and heard of it in one split."""

    name: str
    article: str  # "a", "an" or "" for what is not counted (thunder, applause)
    group: str
    pictures: tuple[Path, ...]
    sounds: tuple[Path, ...]

    @property
    def a(self) -> str:
        """The name with its indefinite article."""
        return f"{self.article} {self.name}".strip()

    @property
    def verb(self) -> str:
        """ "is", or "are" for gloves and scissors."""
        return "are" if not self.article and self.name.endswith("s") and not self.name.endswith("ss") else "is"

    @property
    def the(self) -> str:
        """The name with its definite article."""
        return f"the {self.name}"


class Library:
    """The nameable things of one split ("train" or "heldout") of a source folder."""

    def __init__(self, folder: Path, split: str) -> None:
        catalog = json.loads((folder / "catalog.json").read_text())
        entries = catalog["things"] if isinstance(catalog, dict) else catalog
        self.folder, self.split = folder, split
        self.things = [
            Thing(
                e["name"],
                e.get("article", "a"),
                e["group"],
                tuple(folder / p for p in e["pictures"][split]),
                tuple(folder / p for p in e["sounds"][split]),
            )
            for e in entries
        ]
        # The vocabulary is the train split's; a held-out source can only show what has a name.
        self.seen_names = [e["name"] for e in entries if e["pictures"]["train"]]
        self.heard_names = [e["name"] for e in entries if e["sounds"]["train"]]
        self.ambiguous = {e["name"]: set(e.get("ambiguous_with", ())) for e in entries}
        self.seen = [t for t in self.things if t.pictures and t.name in set(self.seen_names)]
        self.heard = [t for t in self.things if t.sounds and t.name in set(self.heard_names)]
        self.instruments = [t for t in self.heard if t.group == "instrument"]
        self.both = [t for t in self.seen if t in self.heard]
        speech = folder / "speech" / f"{split}.jsonl"
        self.speech = [json.loads(line) for line in speech.read_text().splitlines()] if speech.exists() else []

    def differ(self, thing: Thing, *others: Thing) -> bool:
        """Whether this thing could be taken for none of the others."""
        return not any(o.name == thing.name or o.name in self.ambiguous.get(thing.name, ()) for o in others)


@dataclass(frozen=True)
class Seen:
    """One object in the picture."""

    thing: Thing
    place: str  # a key of PLACES
    picture: Path
    size: float  # height and width as a share of the shorter picture side
    flip: bool
    colour: str | None  # dominant colour, None where there is not one


@dataclass(frozen=True)
class View:
    """What the picture shows from start_s to end_s."""

    start_s: float
    end_s: float
    background: str  # a key of COLOURS, or "" for one that has no name
    objects: tuple[Seen, ...]
    key: int = -1  # row of a feature pool that holds this view already encoded

    @property
    def look(self) -> tuple[str, tuple[Seen, ...]]:
        """What is drawn: views of one look are one picture."""
        return self.background, self.objects


@dataclass(frozen=True)
class Heard:
    """What sounds from start_s to end_s: things together, or speech, or nothing."""

    start_s: float
    end_s: float
    things: tuple[Thing, ...] = ()
    sounds: tuple[Path, ...] = ()
    speech: str = ""
    speech_file: Path | None = None


@dataclass(frozen=True)
class Script:
    """Everything true about a scene. Empty `views`: no picture stream; empty `sounds`: no sound stream."""

    duration_s: float
    views: tuple[View, ...]
    sounds: tuple[Heard, ...]
    size: tuple[int, int]  # width, height in pixels
    seed: int

    def view_at(self, t: float) -> View | None:
        return next((v for v in self.views if v.start_s <= t < v.end_s), self.views[-1] if self.views else None)


def _colour_of(rgba: np.ndarray) -> str | None:
    """The named colour that covers most of a picture's opaque pixels, or None if none covers half."""
    pixels = rgba[rgba[..., 3] > 128][:, :3].astype(np.float32)
    if not len(pixels):
        return None
    hsv = cv2.cvtColor((pixels[None] / 255).astype(np.float32), cv2.COLOR_RGB2HSV)[0]
    hue, sat, val = hsv[:, 0], hsv[:, 1], hsv[:, 2]
    names = np.full(len(hsv), "", dtype=object)
    for name, low, high in (
        ("red", 0, 14),
        ("orange", 16, 38),
        ("yellow", 42, 66),
        ("green", 75, 165),
        ("blue", 185, 255),
        ("purple", 262, 300),
        ("pink", 305, 340),
        ("red", 346, 361),
    ):
        names[(hue >= low) & (hue < high) & (sat > 0.35) & (val > 0.3)] = name
    names[(names == "orange") & (val < 0.6)] = "brown"
    names[(names == "red") & (sat < 0.55) & (val > 0.8)] = "pink"
    names[(sat < 0.12) & (val > 0.88)] = "white"
    names[val < 0.2] = "black"
    names[(sat < 0.15) & (val >= 0.3) & (val <= 0.75)] = "gray"
    found, counts = np.unique(names[names != ""], return_counts=True)
    if not len(found):
        return None
    best = int(counts.argmax())
    return str(found[best]) if counts[best] > 0.55 * len(names) else None


@lru_cache(maxsize=6000)
def load_picture(path: Path) -> np.ndarray:
    """(H, W, 4) uint8 RGBA."""
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.ndim != 3:
        raise ValueError(f"{path}: not a picture")
    if raw.shape[2] == 3:
        raw = np.dstack([raw, np.full(raw.shape[:2], 255, np.uint8)])
    return cv2.cvtColor(raw, cv2.COLOR_BGRA2RGBA)


@lru_cache(maxsize=6000)
def picture_colour(path: Path) -> str | None:
    return _colour_of(load_picture(path))


@lru_cache(maxsize=3000)
def load_sound(path: Path) -> np.ndarray:
    """(S,) float32 at SAMPLE_RATE."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE:
        raise ValueError(f"{path}: {rate} Hz, expected {SAMPLE_RATE}")
    return samples.mean(1)


# --- writing a script -------------------------------------------------------------------------------------------------


def _distinct(
    lib: Library, pool: Sequence[Thing], n: int, rng: random.Random, avoid: Iterable[Thing] = ()
) -> list[Thing]:
    chosen: list[Thing] = []
    avoid = list(avoid)
    for _ in range(200):
        if len(chosen) == n:
            return chosen
        thing = rng.choice(pool)
        if lib.differ(thing, *chosen, *avoid):
            chosen.append(thing)
    raise ValueError(f"fewer than {n} distinct things in the library's {lib.split} split")


def _view(
    lib: Library, start: float, end: float, things: Sequence[Thing], places: Sequence[str], rng: random.Random
) -> View:
    size = {1: (0.45, 0.95), 2: (0.4, 0.62), 3: (0.32, 0.5), 4: (0.3, 0.44)}[len(things)]
    if len(things) == 1 and places[0] != "in the middle":
        size = (0.4, 0.6)
    objects = []
    for thing, place in zip(things, places, strict=True):
        picture = rng.choice(thing.pictures)
        objects.append(Seen(thing, place, picture, rng.uniform(*size), rng.random() < 0.5, picture_colour(picture)))
    return View(start, end, "" if rng.random() < 0.3 else rng.choice(list(COLOURS)), tuple(objects))


def _cuts(duration: float, parts: int, rng: random.Random, shortest: float = 1.2) -> list[float]:
    """parts + 1 ascending times from 0 to duration, at least `shortest` apart."""
    for _ in range(100):
        inner = sorted(rng.uniform(shortest, duration - shortest) for _ in range(parts - 1))
        cuts = [0.0, *(round(c, 2) for c in inner), duration]
        if all(b - a >= shortest for a, b in itertools.pairwise(cuts)):
            return cuts
    return [duration * i / parts for i in range(parts + 1)]


def write_sounds(
    lib: Library, rng: random.Random, shortest_s: float = 3.0, longest_s: float = 9.0
) -> tuple[float, tuple[Heard, ...]]:
    """A random sound track: its length and its parts. Raises ValueError if the library has too few sounds."""
    duration = round(rng.uniform(shortest_s, longest_s), 1)
    spoken = 1 if lib.speech else 0
    plan = rng.choices(
        ["one", "two", "three", "chord", "join", "speech", "speech+", "silence", "gap"],
        [24, 26, 8, 12, 10, 10 * spoken, 5 * spoken, 4, 5],
    )[0]
    if plan.startswith("speech"):
        line = rng.choice(lib.speech)
        length = min(soundfile.info(lib.folder / line["file"]).duration, 12.0)
        text, file = line["text"], lib.folder / line["file"]
        if plan == "speech":
            sounds = [Heard(0, length, (), (), text, file)]
        else:
            thing = rng.choice(lib.heard)
            sound, other = rng.choice(thing.sounds), round(rng.uniform(1.5, 3.0), 1)
            if rng.random() < 0.5:
                sounds = [Heard(0, other, (thing,), (sound,)), Heard(other, other + length, (), (), text, file)]
            else:
                sounds = [Heard(0, length, (), (), text, file), Heard(length, length + other, (thing,), (sound,))]
        return round(sounds[-1].end_s + rng.uniform(0, 0.6), 1), tuple(sounds)
    music = rng.random() < 0.55 or plan in ("chord", "join")
    pool = lib.instruments if music else (lib.both if rng.random() < 0.5 else lib.heard)
    groups: list[list[Thing]]
    if plan == "silence":
        groups = [[]]
    elif plan == "one":
        groups = [_distinct(lib, pool, 1, rng)]
    elif plan == "chord":
        groups = [_distinct(lib, pool, rng.choice([2, 2, 2, 3]), rng)]
    elif plan == "three":
        groups = [[t] for t in _distinct(lib, pool, 3 if duration > 4.5 else 2, rng)]
    else:
        a, b = _distinct(lib, pool, 2, rng)
        if plan == "join":
            groups = rng.choice([[[a], [a, b]], [[a, b], [b]]])
        else:
            groups = [[a], [], [b]] if plan == "gap" and duration > 4.5 else [[a], [b]]
    cuts = _cuts(duration, len(groups), rng)
    chosen = {t.name: rng.choice(t.sounds) for g in groups for t in g}
    parts = zip(groups, cuts, cuts[1:], strict=False)
    return duration, tuple(Heard(a, b, tuple(g), tuple(chosen[t.name] for t in g)) for g, a, b in parts)


ViewMaker = Callable[[float, float, Thing | None, Sequence[Thing]], View]


def write_views(
    rng: random.Random, duration: float, sounds: Sequence[Heard], heard: Sequence[Thing], make: ViewMaker
) -> tuple[View, ...]:
    """What is seen during a sound track. `make(start, end, wanted, avoid)` gives one view, of `wanted` if not None."""
    count = rng.choices([1, 2, 3], [58, 34, 8])[0] if duration > 3.6 else 1
    cuts = _cuts(duration, count, rng)
    if len(sounds) == count and rng.random() < 0.5:  # picture and sound change together
        cuts = [0.0, *(s.end_s for s in sounds[:-1]), duration]
    views: list[View] = []
    used: list[Thing] = []
    for a, b in itertools.pairwise(cuts):
        free = [t for t in heard if t.pictures and t.name not in {u.name for u in used}]
        wanted = rng.choice(free) if free and rng.random() < 0.6 else None
        views.append(make(a, b, wanted, [*heard, *used]))
        used += [o.thing for o in views[-1].objects]
    return tuple(views)


def write_timeline(
    rng: random.Random,
    longest_s: float,
    track: Callable[[Sequence[Thing]], tuple[float, tuple[Heard, ...]]],
    gap: Callable[[float], float],
) -> tuple[float, tuple[Heard, ...]]:
    """The sound of a long scene, 8 s to about `longest_s`: events with silence between them, or one in a long silence.

    `track(avoid)` gives the next event's length and parts, of things that differ from `avoid`; `gap(seconds)` a silence
    and its true length.
    """
    wanted = rng.uniform(8.0, max(8.0, longest_s - 2.0))
    events = rng.choices([1, 2, 3, 4], [35, 30, 22, 13])[0]
    parts: list[Heard] = []
    at = 0.0

    def rest(seconds: float) -> None:
        nonlocal at
        length = gap(seconds)
        parts.append(Heard(round(at, 2), round(at + length, 2)))
        at += length

    for left in range(events, 0, -1):
        spare = max(wanted - at - 5.0 * left, 0.0)
        pause = rng.uniform(0, 2 * spare / (left + 1)) if rng.random() < 0.85 else 0.0
        if pause > 0.6:
            rest(pause)
        length, event = track(things_heard(parts))
        parts += [replace(p, start_s=round(at + p.start_s, 2), end_s=round(at + p.end_s, 2)) for p in event]
        at += length
        if at > longest_s - 3:
            break
    if wanted - at > 0.6:
        rest(wanted - at)
    return round(at, 2), tuple(parts)


def write_long_views(rng: random.Random, duration: float, sounds: Sequence[Heard], make: ViewMaker) -> tuple[View, ...]:
    """What is seen during a long scene: one still, several views, or one that lasts a moment only."""
    heard = things_heard(sounds)
    kind = rng.choices(["still", "moment", "several"], [18, 40, 42])[0]
    if kind == "still":
        cuts = [0.0, duration]
    elif kind == "moment":
        begin = rng.uniform(1.5, duration - 4.0)
        cuts = [0.0, round(begin, 2), round(begin + rng.uniform(1.2, 2.5), 2), duration]
    else:
        cuts = _cuts(duration, rng.randint(2, 4 if duration < 20 else 5), rng, shortest=2.0)
    views: list[View] = []
    used: list[Thing] = []
    for i, (a, b) in enumerate(itertools.pairwise(cuts)):
        if kind == "moment" and i == 2:  # the same as before the moment
            views.append(replace(views[0], start_s=a, end_s=b))
            continue
        free = [t for t in heard if t.pictures and t.name not in {u.name for u in used}]
        wanted = rng.choice(free) if free and rng.random() < 0.5 else None
        views.append(make(a, b, wanted, [*heard, *used]))
        used += [o.thing for o in views[-1].objects]
    return tuple(views)


def new_view(
    lib: Library, rng: random.Random, start: float, end: float, wanted: Thing | None, avoid: Sequence[Thing]
) -> View:
    """A view of freshly chosen pictures."""
    places = list(rng.choice(LAYOUTS))
    things = [wanted] if wanted else []
    pool = lib.both if lib.both and rng.random() < 0.3 else lib.seen
    things += _distinct(lib, pool, len(places) - len(things), rng, [*things, *avoid])
    rng.shuffle(things)
    return _view(lib, start, end, things, places, rng)


def things_heard(sounds: Sequence[Heard]) -> list[Thing]:
    """Every thing that sounds, once, in order."""
    return list({t.name: t for part in sounds for t in part.things}.values())


def write_script(lib: Library, rng: random.Random, shortest_s: float = 3.0, longest_s: float = 9.0) -> Script:
    """A random scene, a seventh without picture and a seventh without sound."""
    kind = rng.random()
    duration, sounds = write_sounds(lib, rng, shortest_s, longest_s)
    if kind < 0.14:
        sounds = ()
        duration = min(duration, longest_s)
    views: tuple[View, ...] = ()
    if kind < 0.86:
        views = write_views(rng, duration, sounds, things_heard(sounds), partial(new_view, lib, rng))
    return Script(duration, views, sounds, rng.choice(SIZES), rng.randrange(1 << 30))


def write_long_script(lib: Library, rng: random.Random, longest_s: float = 60.0) -> Script:
    """A long scene: several events, long still or silent stretches, a moment. A tenth is without picture, or sound."""

    def track(avoid: Sequence[Thing]) -> tuple[float, tuple[Heard, ...]]:
        for _ in range(40):
            length, parts = write_sounds(lib, rng, 1.6, 7.0)
            found = things_heard(parts)
            if (found or any(p.speech for p in parts)) and all(lib.differ(t, a) for t in found for a in avoid):
                break
        return length, parts

    kind = rng.random()
    duration, sounds = write_timeline(rng, longest_s, track, lambda seconds: seconds)
    views: tuple[View, ...] = ()
    if kind < 0.9:
        views = write_long_views(rng, duration, sounds, partial(new_view, lib, rng))
    return Script(duration, views, () if kind < 0.1 else sounds, rng.choice(SIZES), rng.randrange(1 << 30))


# --- rendering --------------------------------------------------------------------------------------------------------


def _background(view: View, size: tuple[int, int], nr: np.random.Generator) -> np.ndarray:
    width, height = size
    ramp = np.linspace(0, 1, height if nr.random() < 0.5 else width, dtype=np.float32)
    ramp = np.broadcast_to(ramp[:, None] if len(ramp) == height else ramp[None, :], (height, width))[..., None]
    if view.background:
        colour = np.array(COLOURS[view.background], np.float32) * nr.uniform(0.88, 1.05) + nr.normal(0, 4, 3)
        canvas = colour * (1 - ramp * nr.uniform(0, 0.2)) + np.zeros((height, width, 3), np.float32)
    else:  # two colours, and sometimes coarse blotches: a background without a name
        a, b = nr.uniform(30, 245, (2, 3))
        canvas = (a * (1 - ramp) + b * ramp).astype(np.float32)
        if nr.random() < 0.6:
            blotches = nr.normal(0, nr.uniform(8, 40), (int(nr.integers(2, 9)), int(nr.integers(2, 12)), 3)).astype(
                np.float32
            )
            canvas = canvas + cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)
    return canvas + nr.normal(0, nr.uniform(0.5, 7), (height, width, 3)).astype(np.float32)


def boxes_of(view: View, size: tuple[int, int], nr: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Pixel box (x, y, w, h) of each object, jittered about its place."""
    width, height = size
    boxes = []
    for seen in view.objects:
        picture = load_picture(seen.picture)
        scale = seen.size * min(width, height) / max(picture.shape[:2])
        w, h = max(8, int(picture.shape[1] * scale)), max(8, int(picture.shape[0] * scale))
        x, y = PLACES[seen.place]
        cx = x * width + nr.normal(0, 0.025) * width
        cy = y * height + nr.normal(0, 0.03) * height
        boxes.append(
            (int(np.clip(cx - w / 2, 0, max(0, width - w))), int(np.clip(cy - h / 2, 0, max(0, height - h))), w, h)
        )
    return boxes


def draw_view(
    view: View, size: tuple[int, int], nr: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """The picture of a view, (H, W, 3) uint8, and each object's pixel box."""
    canvas = _background(view, size, nr)
    boxes = boxes_of(view, size, nr)
    for seen, (x, y, w, h) in zip(view.objects, boxes, strict=True):
        picture = cv2.resize(load_picture(seen.picture), (w, h), interpolation=cv2.INTER_AREA)
        if seen.flip:
            picture = picture[:, ::-1]
        picture = picture[: size[1] - y, : size[0] - x]
        alpha = picture[..., 3:].astype(np.float32) / 255
        region = canvas[y : y + picture.shape[0], x : x + picture.shape[1]]
        region[:] = region * (1 - alpha) + picture[..., :3].astype(np.float32) * alpha
    canvas = (canvas - 128) * nr.uniform(0.85, 1.08) + 128 + nr.uniform(-10, 10)
    if nr.random() < 0.2:
        canvas = cv2.GaussianBlur(canvas, (0, 0), nr.uniform(0.5, 1.2))
    frame = np.clip(canvas, 0, 255).astype(np.uint8)
    if nr.random() < 0.5:  # the marks a video codec leaves
        _, coded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, int(nr.integers(35, 90))])
        frame = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return frame, boxes


def _stretch(sound: np.ndarray, samples: int, nr: np.random.Generator) -> np.ndarray:
    """Cut or repeat a recording to a length, at a random start and slightly changed pitch, at a random level."""
    speed = nr.uniform(0.92, 1.09)
    at = np.arange(0, len(sound) - 1, speed)
    sound = np.interp(at, np.arange(len(sound)), sound).astype(np.float32)
    if len(sound) < samples:  # again, after a short pause
        pause = np.zeros(int(nr.integers(0, SAMPLE_RATE // 2)), np.float32)
        sound = np.tile(np.concatenate([sound, pause]), samples // (len(sound) + len(pause)) + 1)[:samples]
    else:
        start = int(nr.integers(0, len(sound) - samples + 1))
        sound = sound[start : start + samples]
    level = float(np.sqrt((sound**2).mean())) + 1e-5
    return np.clip(sound / level * 10 ** nr.uniform(-1.6, -0.9), -1, 1)


def render_sound(script: Script, nr: np.random.Generator) -> np.ndarray | None:
    """(S,) float32 of the whole scene, or None if it has no sound stream."""
    if not script.sounds:
        return None
    total = np.zeros(round(script.duration_s * SAMPLE_RATE), np.float32)
    voices: dict[Path, list[Heard]] = {}
    for part in script.sounds:
        for path in part.sounds:
            voices.setdefault(path, []).append(part)
        if part.speech_file is not None:
            start = round(part.start_s * SAMPLE_RATE)
            spoken = load_sound(part.speech_file)[: len(total) - start]
            level = float(np.sqrt((spoken**2).mean())) + 1e-5
            total[start : start + len(spoken)] += spoken / level * 10 ** nr.uniform(-1.4, -1.0)
    for path, parts in voices.items():  # one voice may last over several parts
        start = round(parts[0].start_s * SAMPLE_RATE)
        stop = min(round(parts[-1].end_s * SAMPLE_RATE), len(total))
        voice = _stretch(load_sound(path), stop - start, nr)
        fade = min(int(SAMPLE_RATE * 0.03), len(voice) // 4)
        voice[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
        voice[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        total[start:stop] += voice
    if any(p.sounds or p.speech for p in script.sounds) or nr.random() < 0.5:
        total += nr.normal(0, 10 ** nr.uniform(-4.5, -3.2), len(total)).astype(np.float32)
    return np.clip(total, -1, 1)


def frame_times(duration_s: float, fps: float) -> np.ndarray:
    """Times of the sampled frames: the middle of each interval of 1/fps seconds, at least one."""
    count = max(1, round(duration_s * fps))
    return (np.arange(count) + 0.5) * duration_s / count


def render(script: Script, fps: float = 1.0) -> tuple[Clip, list[list[tuple[int, int, int, int]]]]:
    """The scene as decoded media, and for each view its objects' pixel boxes.

    A view is drawn once: frames of one view are the same array, which spares the vision tower most of its work.
    """
    nr = np.random.default_rng(script.seed)
    frames = times = None
    boxes: list[list[tuple[int, int, int, int]]] = []
    if script.views:
        drawn: dict[tuple[str, tuple[Seen, ...]], tuple[np.ndarray, list[tuple[int, int, int, int]]]] = {}
        for view in script.views:
            if view.look not in drawn:
                drawn[view.look] = draw_view(view, script.size, nr)
            boxes.append(drawn[view.look][1])
        times = frame_times(script.duration_s, fps)
        frames = np.stack([drawn[script.view_at(float(t)).look][0] for t in times])  # type: ignore[union-attr]
    width, height = script.size if script.views else (0, 0)
    info = MediaInfo(
        Path("scene"), "scene", script.duration_s, False, width, height, fps, "scene" if script.views else None, ()
    )
    return Clip(info, (0.0, script.duration_s), frames, times, render_sound(script, nr)), boxes
