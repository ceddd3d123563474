"""Sound tracks of recordings and speech as the ear reports them, to be put together into ever new scenes.

Only YAMNet runs: what the sound head and AudioSet's classifier say of each token is all that the language model reads
of a sound, and the words that are spoken are written onto the tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from epcli.lab.retold import SHARE, Retold
from epcli.lab.scenes import (
    Heard,
    Library,
    Thing,
    render_sound,
    things_heard,
    write_sounds,
    write_timeline,
)
from epcli.models.smol.adapter import HeardNames, SoundNames
from epcli.models.smol.ear import Ear
from epcli.models.smol.family import AUDIO_STEP_S

AGREES, LIKELY = 0.5, 0.3  # share of the likeliest name's probability; probability of a name that is reported
FIELDS = ("names", "classes", "quiet", "words")


@dataclass(frozen=True, eq=False)
class Track:
    """What sounds, and what the ear reports of it."""

    duration_s: float
    parts: tuple[Heard, ...]
    heard: HeardNames


def make_tracks(
    lib: Library,
    ear: Ear,
    namer: SoundNames,
    count: int,
    seed: int,
    folder: Path,
    say: Callable[[str], None] = print,
) -> None:
    """Write, render and listen to `count` sound tracks; writes tracks.json and tracks.safetensors into `folder`."""
    rng = random.Random(seed)
    entries: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for i in range(count):
        duration, parts = write_sounds(lib, rng)
        samples = render_sound(duration, parts, np.random.default_rng(rng.randrange(1 << 30)))
        heard = namer.heard(ear.sounds(samples), None)
        entries.append(
            {"duration": duration, "parts": [[p.start_s, p.end_s, [t.name for t in p.things], p.speech] for p in parts]}
        )
        tensors |= {f"{i}.names": heard.names.half(), f"{i}.classes": heard.classes.half(), f"{i}.quiet": heard.quiet}
        if i % 200 == 0:
            say(f"tracks: {i}/{count}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "tracks.safetensors")
    (folder / "tracks.json").write_text(json.dumps(entries))


def load_tracks(lib: Library, folder: Path) -> list[Track]:
    """The tracks of `make_tracks`."""
    things = {t.name: t for t in lib.things}
    tensors = load_file(folder / "tracks.safetensors")
    tracks = []
    for i, entry in enumerate(json.loads((folder / "tracks.json").read_text())):
        parts = tuple(Heard(a, b, tuple(things[n] for n in names), (), said) for a, b, names, said in entry["parts"])
        quiet = tensors[f"{i}.quiet"]
        heard = HeardNames(
            tensors[f"{i}.names"].float(), tensors[f"{i}.classes"].float(), quiet, torch.full((len(quiet),), -1)
        )
        parts = tuple(called_as_heard(part, heard, lib) for part in parts)
        tracks.append(Track(entry["duration"], parts, heard))
    return tracks


def called_as_heard(part: Heard, heard: HeardNames, lib: Library) -> Heard:
    """A single sound by the name that the ear clearly gives it: answers tell what is reported."""
    if len(part.things) != 1:
        return part
    first, last = (
        int(part.start_s / AUDIO_STEP_S),
        max(int(part.end_s / AUDIO_STEP_S), int(part.start_s / AUDIO_STEP_S) + 1),
    )
    p = heard.names[first:last].sigmoid().mean(0)
    true, best = lib.heard_names.index(part.things[0].name), int(p.argmax())
    if p[true] >= AGREES * p[best] or p[best] < LIKELY:
        return part
    return replace(part, things=tuple(t for t in lib.things if t.name == lib.heard_names[best]))


class TrackMaker:
    """Draws sound tracks: one of the pool, or several one after another with silence between them."""

    def __init__(self, tracks: Sequence[Track], lib: Library, retold: Retold) -> None:
        """`retold` puts other words into the mouths of some voices."""
        self.tracks, self.lib, self.retold = tracks, lib, retold
        self.sounding = [t for t in tracks if things_heard(t.parts) or any(p.speech for p in t.parts)]

    def one(self, rng: random.Random, avoid: Sequence[Thing] = (), *, sounding: bool = False) -> Track:
        """A track of the pool, of things that differ from `avoid`."""
        pool = self.sounding if sounding else self.tracks
        for _ in range(40):
            track = rng.choice(pool)
            if all(self.lib.differ(t, a) for t in things_heard(track.parts) for a in avoid):
                break
        words = torch.full((len(track.heard.quiet),), -1)
        parts = []
        for part in track.parts:
            told = None
            if part.speech:
                changed = rng.random() < SHARE
                told = self.retold(rng, part, words) if changed else self.retold.lay(rng, part, words)
            parts.append(told or part)
        return Track(track.duration_s, tuple(parts), track.heard._replace(words=words))

    def several(self, rng: random.Random, longest_s: float) -> Track:
        """Of 8 s to about `longest_s`."""
        pieces: list[HeardNames] = []
        first = self.tracks[0].heard

        def track(avoid: Sequence[Thing]) -> tuple[float, tuple[Heard, ...]]:
            made = self.one(rng, avoid, sounding=True)
            pieces.append(made.heard)
            return len(made.heard.quiet) * AUDIO_STEP_S, made.parts

        def gap(length_s: float) -> float:
            need = max(1, round(length_s / AUDIO_STEP_S))
            pieces.append(silence(need, first.names.shape[1], first.classes.shape[1]))
            return need * AUDIO_STEP_S

        duration, parts = write_timeline(rng, longest_s, track, gap)
        return Track(duration, parts, joined(pieces))


def silence(tokens: int, names: int, classes: int) -> HeardNames:
    """Tokens of digital silence."""
    return HeardNames(
        torch.full((tokens, names), -20.0),
        torch.full((tokens, classes), -20.0),
        torch.ones(tokens, dtype=torch.bool),
        torch.full((tokens,), -1),
    )


def joined(pieces: Sequence[HeardNames]) -> HeardNames:
    """One after another."""
    return HeardNames(*(torch.cat([getattr(p, field) for p in pieces]) for field in FIELDS))
