"""Which sounds are heard, and from when to when: YAMNet's classes as people call them, joined to events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from epcli.observe.loudness import joined
from epcli.observe.yamnet import MEL_HOP, PATCH_FRAMES
from epcli.records import SAMPLE_RATE, Observation

PATCH_HOP_S = PATCH_FRAMES // 2 * MEL_HOP / SAMPLE_RATE  # 0.48: patches of 0.96 s overlap by half
ON, OFF = 0.4, 0.2  # a sound begins with one probability and ends below the other
LONGEST_GAP_S = 1.5  # a sound that stops for less goes on
BRIEF = 0.7  # a sound that is heard in one patch only must be this probable
COVERED = 0.5  # of a sound's time that a kind of it is heard in: more, and the kind alone is told
SURELY = 0.6  # times the probability of a sound: with less, a kind of it is not told instead
_VOICES = (
    *("Speech", "Child speech, kid speaking", "Conversation", "Narration, monologue", "Speech synthesizer"),
    *("Whispering", "Shout", "Yell", "Children shouting", "Singing", "Child singing", "Rapping", "Choir"),
)


@dataclass(frozen=True)
class Kind:
    """A sound by its everyday name."""

    name: str
    broader: tuple[str, ...]  # what it is a kind of, the nearest first: "dog barking" is "dog", "pet", "animal"
    always: bool  # named even where a kind of it is heard


@cache
def kinds() -> dict[str, Kind | None]:
    """AudioSet's classes and what they are called; None for a class that is never named."""
    found: dict[str, Kind | None] = {}
    above: list[str | None] = []  # names at smaller indents
    for line in files("epcli.observe").joinpath("data/sounds.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        words = line.lstrip(" ")
        del above[len(line) - len(words) :]
        mark = words[:2] if words[:2] in ("- ", "+ ") else ""
        audioset, _, name = words.removeprefix(mark).partition(" = ")
        name = name or audioset.split(",")[0].split(" (")[0].lower()
        broader = tuple(dict.fromkeys(each for each in reversed(above) if each and each != name))
        found[audioset] = None if mark == "- " else Kind(name, broader, mark == "+ ")
        above.append(None if mark == "- " else name)
    return found


@cache
def broader(name: str) -> tuple[str, ...]:
    """What a sound of this name is a kind of, the nearest first: "bus" is "road vehicle" and "vehicle"."""
    return next((kind.broader for kind in kinds().values() if kind and kind.name == name), ())


def voices(probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """(P, C) probabilities of AudioSet's classes -> (P,) that somebody speaks, sings or shouts."""
    highest: np.ndarray = probabilities[:, [classes.index(name) for name in _VOICES]].max(1)
    return highest


@dataclass
class _Event:
    start_s: float
    end_s: float
    highest: float
    patches: int = 1


@dataclass
class Events:
    """Joins patches to events. Feed it stretches of sound in the order of time.

    Memory: an entry for each sound that goes on, and those of its kinds that have ended meanwhile.
    """

    classes: Sequence[str]
    _going: dict[str, _Event] = field(default_factory=dict)
    _ended: list[tuple[str, _Event]] = field(default_factory=list)

    def __post_init__(self) -> None:
        named = [(i, kind) for i, kind in enumerate(kinds()[name] for name in self.classes) if kind is not None]
        self._kinds = {kind.name: kind for _, kind in named}
        self._columns = {name: [i for i, kind in named if kind.name == name] for name in self._kinds}

    def add(
        self,
        probabilities: np.ndarray,
        start_s: float,
        end_s: float,
        silent: Sequence[tuple[float, float]] = (),
    ) -> list[Observation]:
        """(P, C) probabilities of patches every PATCH_HOP_S from `start_s` on -> the sounds that have ended.

        A patch stands for PATCH_HOP_S around its centre, the first and the last for what is left up to the ends, and
        none for what is `silent`.
        """
        named = np.stack([probabilities[:, columns].max(1) for columns in self._columns.values()], 1)
        done: list[Observation] = []
        for patch, row in enumerate(named):
            begin = start_s + (patch + 0.5) * PATCH_HOP_S if patch else start_s
            end = min(end_s, start_s + (patch + 1.5) * PATCH_HOP_S) if patch < len(named) - 1 else end_s
            done += self._close(begin)
            begin, end = _audible(begin, end, silent)
            if begin >= end:
                continue
            for name, p in zip(self._columns, row, strict=True):
                event = self._going.get(name)
                if event is None:
                    if p >= ON:
                        self._going[name] = _Event(begin, end, float(p))
                elif p >= OFF:
                    event.end_s, event.highest = end, max(event.highest, float(p))
                    event.patches += 1
        return done

    def finish(self) -> list[Observation]:
        """The sounds that go on to the end."""
        return self._close(float("inf"))

    def state(self) -> list[Any]:
        """What is known of the sounds so far, as JSON types."""
        return [[[name, *astuple(event)] for name, event in events] for events in (self._going.items(), self._ended)]

    def restore(self, state: list[Any]) -> None:
        """Go on from a `state`."""
        going, self._ended = ([(name, _Event(*event)) for name, *event in events] for events in state)
        self._going = dict(going)

    def _close(self, now_s: float) -> list[Observation]:
        """The events that ended LONGEST_GAP_S before now, but for those whose kinds tell more."""
        over = [name for name, event in self._going.items() if now_s - event.end_s > LONGEST_GAP_S]
        closed = [(name, self._going.pop(name)) for name in over]
        closed = [(name, event) for name, event in closed if event.patches > 1 or event.highest >= BRIEF]
        self._ended += closed
        told = [
            Observation("sound", name, event.start_s, event.end_s, event.highest, "yamnet")
            for name, event in closed
            if self._kinds[name].always or self._covered(name, event) < COVERED * (event.end_s - event.start_s)
        ]
        oldest = min((event.start_s for event in self._going.values()), default=float("inf"))
        self._ended = [(name, event) for name, event in self._ended if event.end_s > oldest]
        return told

    def _covered(self, name: str, event: _Event) -> float:
        """Seconds of an event in which a kind of it is heard about as surely, short gaps included."""
        heard = [*self._ended, *self._going.items()]
        spans = [
            (each.start_s, each.end_s)
            for other, each in heard
            if name in self._kinds[other].broader and each.highest >= SURELY * event.highest
        ]
        inside = [(max(start, event.start_s), min(end, event.end_s)) for start, end in joined(spans, LONGEST_GAP_S)]
        return sum(max(0.0, end - start) for start, end in inside)


def _audible(begin: float, end: float, silent: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A span without the silence at its ends."""
    for low, high in silent:
        if low <= begin < high:
            begin = min(high, end)
        if low < end <= high:
            end = max(low, begin)
    return begin, end
