"""Sound tracks for training and measuring: what sounds when, written by chance and rendered from real recordings.

Recordings and speech come from a `Library`, the folder that `python -m epcli.lab.sources` writes, whose split keeps
held-out sources apart.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from epcli.errors import UsageError
from epcli.records import SAMPLE_RATE


@dataclass(frozen=True)
class Thing:
    """Something that can be heard and named, with its recordings of one split."""

    name: str
    article: str  # "a", "an" or "" for what is not counted (thunder, applause)
    group: str
    sounds: tuple[Path, ...]

    @property
    def a(self) -> str:
        """The name with its indefinite article."""
        return f"{self.article} {self.name}".strip()

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
                tuple(folder / p for p in e["sounds"][split]),
            )
            for e in entries
        ]
        # The vocabulary is the train split's; a held-out source can only sound like what has a name.
        self.heard_names = [e["name"] for e in entries if e["sounds"]["train"]]
        self.ambiguous = {e["name"]: set(e.get("ambiguous_with", ())) for e in entries}
        self.heard = [t for t in self.things if t.sounds and t.name in set(self.heard_names)]
        self.instruments = [t for t in self.heard if t.group == "instrument"]
        speech = folder / "speech" / f"{split}.jsonl"
        self.speech = [json.loads(line) for line in speech.read_text().splitlines()] if speech.exists() else []

    def differ(self, thing: Thing, *others: Thing) -> bool:
        """Whether this thing could be taken for none of the others."""
        return not any(o.name == thing.name or o.name in self.ambiguous.get(thing.name, ()) for o in others)


@dataclass(frozen=True)
class Heard:
    """What sounds from start_s to end_s: things together, or speech, or nothing."""

    start_s: float
    end_s: float
    things: tuple[Thing, ...] = ()
    sounds: tuple[Path, ...] = ()
    speech: str = ""
    speech_file: Path | None = None


@lru_cache(maxsize=3000)
def load_sound(path: Path) -> np.ndarray:
    """(S,) float32 at SAMPLE_RATE."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE:
        raise ValueError(f"{path}: {rate} Hz, expected {SAMPLE_RATE}")
    return samples.mean(1)


def check_apart(lib: Library, used: Iterable[Path]) -> int:
    """How many files these are. Raises UsageError for one that is, by content, among the training files."""
    used = sorted(used)
    other = Library(lib.folder, "train")
    trained = {path for thing in other.things for path in thing.sounds}
    trained |= {lib.folder / line["file"] for line in other.speech}
    known = {_digest(path): path for path in trained}
    for path in used:
        if (same := known.get(_digest(path))) is not None:
            raise UsageError(f"{path}: is held out, but {same} of the training sources is the same; build them again")
    return len(used)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


# --- writing a track -------------------------------------------------------------------------------------------------


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
    pool = lib.instruments if music else lib.heard
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


def things_heard(sounds: Sequence[Heard]) -> list[Thing]:
    """Every thing that sounds, once, in order."""
    return list({t.name: t for part in sounds for t in part.things}.values())


# --- rendering --------------------------------------------------------------------------------------------------------


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


def render_sound(duration_s: float, parts: Sequence[Heard], nr: np.random.Generator) -> np.ndarray:
    """(S,) float32 at SAMPLE_RATE."""
    total = np.zeros(round(duration_s * SAMPLE_RATE), np.float32)
    voices: dict[Path, list[Heard]] = {}
    for part in parts:
        for path in part.sounds:
            voices.setdefault(path, []).append(part)
        if part.speech_file is not None:
            start = round(part.start_s * SAMPLE_RATE)
            spoken = load_sound(part.speech_file)[: len(total) - start]
            level = float(np.sqrt((spoken**2).mean())) + 1e-5
            total[start : start + len(spoken)] += spoken / level * 10 ** nr.uniform(-1.4, -1.0)
    for path, mine in voices.items():  # one voice may last over several parts
        start = round(mine[0].start_s * SAMPLE_RATE)
        stop = min(round(mine[-1].end_s * SAMPLE_RATE), len(total))
        voice = _stretch(load_sound(path), stop - start, nr)
        fade = min(int(SAMPLE_RATE * 0.03), len(voice) // 4)
        voice[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
        voice[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        total[start:stop] += voice
    if any(p.sounds or p.speech for p in parts) or nr.random() < 0.5:
        total += nr.normal(0, 10 ** nr.uniform(-4.5, -3.2), len(total)).astype(np.float32)
    return np.clip(total, -1, 1)


def frame_times(duration_s: float, fps: float) -> np.ndarray:
    """Times of the sampled frames: the middle of each interval of 1/fps seconds, at least one."""
    count = max(1, round(duration_s * fps))
    return (np.arange(count) + 0.5) * duration_s / count
