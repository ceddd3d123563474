"""Which recordings show which sound, from recordings.yaml, and how each becomes clips."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epcli.errors import EpError
from epcli.lab.sources import audio, melody, sampler
from epcli.lab.sources.catalog import slug, table

HELD_OUT = {"tuxpaint", "gcompris-instruments"}
_STROKE_CLIPS = 6
_NOTE_CLIPS = 12
# Packages of recorded single notes (npm tonejs-instrument-*) -> entry of instruments.yaml that says how to play them.
NOTES = {
    "bass-electric": "bass guitar", "bassoon": "bassoon", "cello": "cello", "clarinet": "clarinet",
    "contrabass": "double bass", "flute": "flute", "french-horn": "french horn", "guitar-acoustic": "guitar",
    "guitar-electric": "electric guitar", "guitar-nylon": "guitar", "harmonium": "harmonium", "harp": "harp",
    "organ": "organ", "piano": "piano", "saxophone": "saxophone", "trombone": "trombone", "trumpet": "trumpet",
    "tuba": "tuba", "violin": "violin", "xylophone": "xylophone",
}  # fmt: skip


@dataclass(frozen=True)
class RecordingGroup:
    """Recordings that become clips of one thing together. `kind`: single, strokes or notes."""

    thing: str
    source: str
    id: str
    files: tuple[Path, ...]
    kind: str

    @property
    def split(self) -> str:
        """train or heldout."""
        return "heldout" if self.source in HELD_OUT else "train"


def recording_groups(folders: Mapping[str, Path]) -> list[RecordingGroup]:
    """Everything of recordings.yaml and NOTES. Identical files are taken once. Raises EpError on a dead pattern."""
    struck = {i.thing for i in melody.instruments() if i.style == "strokes"} | {"tabla", "djembe", "cajon"}
    found, seen = [], set()
    for source, entry in table("recordings").items():
        root = folders[source.removesuffix("-instruments")] / entry["in"]
        for thing, patterns in entry.items():
            if thing == "in":
                continue
            files = [file for pattern in patterns for file in sorted(root.glob(pattern))]
            if not files:
                raise EpError(f"recordings.yaml: {source} has no {patterns[0]} for {thing!r}")
            fresh = []
            for file in files:
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                if digest not in seen:
                    seen.add(digest)
                    fresh.append(file)
            if thing in struck and source in ("hydrogen", "sonic-pi"):
                found.append(RecordingGroup(thing, source, slug(thing), tuple(fresh), "strokes"))
            else:
                for file in fresh:
                    digest = hashlib.sha256(str(file.relative_to(root)).encode()).hexdigest()[:4]
                    found.append(
                        RecordingGroup(thing, source, f"{slug(thing)}-{slug(file.stem)}-{digest}", (file,), "single")
                    )
    for name, instrument in NOTES.items():
        folder = folders[f"tonejs-{name}"] / "package"
        found.append(RecordingGroup(instrument, "tonejs", slug(name), tuple(sorted(folder.glob("*.mp3"))), "notes"))
    return found


def make(group: RecordingGroup) -> list[np.ndarray]:
    """The clips of a group."""
    rng = random.Random(f"{group.source} {group.id}")
    if group.kind == "notes":
        keyed = {key: file for file in group.files if (key := sampler.key_of(file.stem)) is not None}
        how = next(i for i in melody.instruments() if i.name == group.thing)
        return sampler.notes(keyed, how, _NOTE_CLIPS, rng)
    recorded = [audio.read(file) for file in group.files]
    if group.kind == "strokes":
        return sampler.strokes(recorded, _STROKE_CLIPS, rng)
    return sampler.clips(recorded[0], rng, 1 if group.split == "heldout" else 2)
