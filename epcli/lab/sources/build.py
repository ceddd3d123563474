"""The whole build, step by step; every step uses again what an earlier run already made."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from epcli.errors import EpError
from epcli.lab.sources import audio, catalog, fetch, melody, recordings, soundfonts, speech
from epcli.lab.sources.catalog import CatalogThing, slug

WORKERS = 2
CLIPS = 10  # of each instrument and sound font
HELD_OUT_FONT = "timgm6mb"
_SAME_SOUND = 0.6


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def build(out: Path, work: Path) -> dict[str, int]:
    """Fetch, render and write everything. Returns the counts. Paths stay the same from run to run."""
    folders = fetch.fetch(work)
    things = catalog.things()
    say("rendering instruments")
    for source, made in play_all(folders, out).items():
        for name, paths in made.items():
            things[name].sounds["heldout" if source == HELD_OUT_FONT else "train"] += paths
    say("cutting recordings")
    record_all(folders, things, out)
    say("speaking")
    spoken = speak_all(folders, out)
    balance(things)
    catalog.write(out, things, licences())
    return {**count(things), **spoken}


def balance(things: Mapping[str, CatalogThing]) -> None:
    """Train on what only the held-out recordings have: nothing is to be recognised that was never trained on."""
    for thing in things.values():
        if not thing.sounds["train"]:
            thing.sounds = {"train": thing.sounds["heldout"], "heldout": []}


def licences() -> list[dict[str, str]]:
    """One row per source package, for the catalog."""
    return [
        {
            "source": p.key,
            "package": p.name,
            "client": p.client,
            "licence": p.licence,
            "takes": p.takes,
            "split": p.split,
        }
        for p in fetch.PACKAGES
    ]


def count(things: Mapping[str, CatalogThing]) -> dict[str, int]:
    """How many things have what, and how many files there are."""
    totals = {}
    for split in ("train", "heldout"):
        files = [thing.sounds[split] for thing in things.values()]
        totals[f"things with {split} sounds"] = sum(map(bool, files))
        totals[f"{split} sounds"] = sum(map(len, files))
    return totals


# --- sounds -----------------------------------------------------------------------------------------------------------


def play_all(folders: Mapping[str, Path], out: Path) -> dict[str, dict[str, list[str]]]:
    """Source -> thing -> its clips, rendering those that are not there yet."""
    fonts = soundfonts.fonts(folders)
    jobs = [(key, instrument) for key in fonts for instrument in melody.instruments()]

    def one(job: tuple[str, melody.Instrument]) -> list[str]:
        key, instrument = job
        play = partial(soundfonts.play, *fonts[key], instrument, CLIPS, f"{key} {instrument.name}")
        return _once(out, f"sounds/{key}", slug(instrument.name), play)

    made: dict[str, dict[str, list[str]]] = {key: {} for key in fonts}
    with ThreadPoolExecutor(WORKERS) as pool:
        for (key, instrument), paths in zip(jobs, pool.map(one, jobs), strict=True):
            if paths:
                made[key].setdefault(instrument.thing, []).extend(paths)
    return made


def record_all(folders: Mapping[str, Path], things: Mapping[str, CatalogThing], out: Path) -> None:
    """Clips of every recording, less those for training that are copies of a held-out recording."""
    found = recordings.recording_groups(folders)
    if unknown := {b.thing for b in found} - things.keys():
        raise EpError(f"recordings.yaml: {min(unknown)!r} is not in things.yaml")
    held = [audio.read(b.files[0]) for b in found if b.split == "heldout"]

    def one(group: recordings.RecordingGroup) -> list[str]:
        if group.split == "train" and group.kind == "single":
            sound = audio.read(group.files[0])
            if any(audio.alike(sound, other) > _SAME_SOUND for other in held):
                say(f"a copy of a held-out recording, dropped: {group.files[0].name} ({group.source})")
                return []
        paths = _once(out, f"sounds/{group.source}", group.id, partial(recordings.make, group))
        if not paths:
            say(f"left out: nothing to be heard in {group.files[0].name} ({group.source})")
        return paths

    with ThreadPoolExecutor(WORKERS) as pool:
        for group, paths in zip(found, pool.map(one, found), strict=True):
            things[group.thing].sounds[group.split] += paths


def _once(out: Path, folder: str, name: str, make: partial[list[np.ndarray]]) -> list[str]:
    """Paths of the clips called name-00, name-01 …, made only if there are none."""
    if there := sorted((out / folder).glob(f"{name}-[0-9][0-9].flac")):
        return [str(path.relative_to(out)) for path in there]
    paths = []
    for i, clip in enumerate(make()):
        paths.append(f"{folder}/{name}-{i:02}.flac")
        audio.write(out / paths[-1], clip)
    return paths


# --- speech -----------------------------------------------------------------------------------------------------------


def speak_all(folders: Mapping[str, Path], out: Path) -> dict[str, int]:
    """speech/train.jsonl and heldout.jsonl: recorded prompts in both, synthetic voices in train only."""
    rows: dict[str, list[dict[str, str]]] = {"train": [], "heldout": []}
    for file, words in speech.prompts(folders):
        split = "heldout" if speech.held_out(words) else "train"
        path = f"speech/asterisk/{slug(str(file.parent.name))}-{slug(file.stem)}.flac"
        if not (out / path).exists():
            if (clip := speech.tidy(audio.read(file))) is None:
                continue
            audio.write(out / path, clip)
        rows[split].append({"file": path, "text": words, "voice": "Allison Smith"})
    rng = random.Random("sentences")
    voices = speech.voices()
    heldout_words = {row["text"] for row in rows["heldout"]}
    jobs = [(i, text, voices[i % len(voices)]) for i, text in enumerate(speech.sentences(speech.SENTENCES, rng))]

    def one(job: tuple[int, str, speech.Voice]) -> dict[str, str] | None:
        i, text, voice = job
        path = f"speech/synthetic/{i:04}.flac"
        if text in heldout_words:
            return None
        if not (out / path).exists():
            raw = out / "speech" / f"{i:04}.wav"
            raw.parent.mkdir(parents=True, exist_ok=True)
            raw.write_bytes(voice.speak(text))
            clip = speech.tidy(audio.read(raw))
            raw.unlink()
            if clip is None:
                return None
            audio.write(out / path, clip)
        return {"file": path, "text": text, "voice": voice.name}

    with ThreadPoolExecutor(WORKERS) as pool:
        rows["train"] += [row for row in pool.map(one, jobs) if row]
    for split, found in rows.items():
        target = out / "speech" / f"{split}.jsonl"
        part = target.with_suffix(".part")
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
        part.replace(target)
    return {f"{split} spoken sentences": len(found) for split, found in rows.items()}
