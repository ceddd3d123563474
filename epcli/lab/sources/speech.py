"""Speech whose words are known: recorded prompts, and sentences made up here and spoken by speech synthesizers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epcli.lab.sources import audio
from epcli.lab.sources.catalog import table
from epcli.lab.sources.fetch import run

HELD_OUT_SHARE = 0.15
SENTENCES = 600
_WORDS = {
    "name": "anna ben carla david emma frank grace henry ida jack kate leo maria nick olga paul rosa sam tom vera",
    "person": "my brother/my sister/the teacher/the doctor/a neighbor/the child/an old man/the girl/our friend",
    "thing": "book letter apple cup key hat coat box map lamp chair clock bag ball stone basket picture ticket",
    "things": "books letters apples cups keys hats coats boxes maps lamps chairs clocks bags balls stones tickets",
    "animal": "dog cat horse bird cow sheep duck goat mouse rabbit",
    "animals": "dogs cats horses birds cows sheep ducks goats mice rabbits",
    "place": "in the garden/at the station/on the table/by the river/behind the house/in the kitchen/at school/"
    "near the door/in the park/under the tree/on the bridge/at the market",
    "colour": "red green blue yellow white black brown",
    "number": "two three four five six seven eight nine ten twelve twenty thirty forty fifty",
    "day": "monday tuesday wednesday thursday friday saturday sunday",
    "did": "found lost bought sold carried painted cleaned dropped wanted forgot saw",
    "does": "sleeps sings waits plays reads works laughs runs walks eats",
    "feels": "happy tired hungry busy ready late early quiet",
    "weather": "cold warm dark quiet late early",
    "opens": "open close",
    "opened": "door window box bag book",
    "daytime": "morning evening afternoon",
}
_FORMS = (
    "{name} {did} a {colour} {thing} {place}",
    "{person} {did} the {thing}",
    "the {animal} {does} {place}",
    "there are {number} {animals} {place}",
    "please bring me the {colour} {thing}",
    "where is the {thing} that {name} {did}",
    "on {day} we meet {place}",
    "the train leaves at {number} o'clock",
    "{name} has {number} {colour} {things}",
    "do you see the {animal} {place}",
    "i {did} {number} {things} on {day}",
    "it is {weather} {place}",
    "{person} is {feels} today",
    "good {daytime} {name}",
    "{opens} the {opened} please",
)


@dataclass(frozen=True)
class Voice:
    """One synthetic voice: its name, and how it turns text into a sound file's bytes."""

    name: str
    speak: Callable[[str], bytes]


def sentences(n: int, rng: random.Random) -> list[str]:
    """`n` different ordinary sentences in plain lower-case words."""
    choices = {kind: words.split("/" if "/" in words else None) for kind, words in _WORDS.items()}
    made: dict[str, None] = {}
    while len(made) < n:
        made.setdefault(rng.choice(_FORMS).format(**{kind: rng.choice(words) for kind, words in choices.items()}))
    return list(made)


def voices() -> list[Voice]:
    """espeak-ng in several accents and pitches, and the voices of flite."""

    def espeak(name: str, pitch: int, speed: int) -> Voice:
        options = ["-v", name, "-p", str(pitch), "-s", str(speed), "--stdout"]
        return Voice(f"espeak-ng {name} {pitch}", lambda text: run(["espeak-ng", *options, text]))

    def flite(name: str) -> Voice:
        return Voice(f"flite {name}", lambda text: run(["flite", "-voice", name, "-t", text, "-o", "/dev/stdout"]))

    return [
        *(espeak(*voice) for voice in (("en-us", 45, 150), ("en-us+f3", 60, 160), ("en-gb", 40, 155),
                                       ("en-gb+f2", 65, 145), ("en-gb-scotland", 50, 150), ("en-us+m3", 30, 165))),
        *(flite(name) for name in ("slt", "rms", "awb", "kal16")),
    ]  # fmt: skip


def held_out(prompt: str) -> bool:
    """Whether a recorded prompt is kept for measuring: by a hash of its words, so that the same words never part."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 1000 < HELD_OUT_SHARE * 1000


def prompts(folders: Mapping[str, Path]) -> list[tuple[Path, str]]:
    """(recording, its words) of every prompt in prompts.yaml that the package has."""
    root = next(folders["asterisk"].rglob("en_US_f_Allison"))
    found = ((root / f"{name}.g722", words) for name, words in table("prompts").items())
    return [(path, words) for path, words in found if path.exists()]


def tidy(samples: np.ndarray) -> np.ndarray | None:
    """As for other sounds, but a long sentence is not cut."""
    return audio.clean(samples, longest_s=None)
