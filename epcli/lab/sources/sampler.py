"""Clips from recordings: a long one cut up, a short one repeated, strokes in a rhythm, single notes as a melody."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from epcli.lab.sources import audio, melody
from epcli.records import SAMPLE_RATE

_SHORT_S = 2.0
_MOST_CUTS = 4
_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_REACH = 4  # semitones that a recorded note may be moved
_OVERSAMPLED = 2 * SAMPLE_RATE  # notes are read at this rate, so that moving them loses little


def cut(samples: np.ndarray, rng: random.Random) -> list[np.ndarray]:
    """A recording of 2 s or more -> up to four clips of at most 6 s, from its start to its end, without silent ends."""
    longest = int(6 * SAMPLE_RATE)
    if len(samples) <= longest:
        pieces = [samples]
    else:
        n = min(_MOST_CUTS, len(samples) // longest + 1)
        starts = np.linspace(0, len(samples) - longest, n).astype(int)
        pieces = [samples[s : s + int(rng.uniform(4, 6) * SAMPLE_RATE)] for s in starts]
    return [clean for piece in pieces if (clean := audio.clean(piece)) is not None]


def repeat(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """A short sound, again and again with uneven pauses (a dog barks so), for 2.5 to 5 s."""
    target = rng.uniform(2.5, 5) * SAMPLE_RATE
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < target:
        pause = rng.uniform(0.1, 0.9) if rng.random() < 0.8 else rng.uniform(0.9, 1.6)
        parts += [samples * rng.uniform(0.6, 1.0), np.zeros(int(pause * SAMPLE_RATE), np.float32)]
    return np.concatenate(parts[:-1]).astype(np.float32)


def clips(recording: np.ndarray, rng: random.Random, variants: int) -> list[np.ndarray]:
    """One recording as clips; `variants` of it where it is so short that it has to be repeated."""
    whole = audio.clean(recording, longest_s=None)
    if whole is None:
        return []
    if len(whole) >= _SHORT_S * SAMPLE_RATE:
        return cut(whole, rng)
    return [made for _ in range(variants) if (made := audio.clean(repeat(whole, rng))) is not None]


def strokes(shots: Sequence[np.ndarray], n: int, rng: random.Random) -> list[np.ndarray]:
    """`n` rhythms of 4 to 6 s played with recorded strokes of one kind of drum."""
    hits = [clean for shot in shots if (clean := audio.clean(shot)) is not None]
    if not hits:
        return []
    instrument = melody.Instrument("", ((0, 0),), "strokes", "", struck=tuple(range(min(len(hits), 128))))
    made = []
    for clip in melody.write_clips(instrument, instrument.programs, n, rng):
        some = [rng.choice(hits) for _ in range(3)]
        out = np.zeros(int((clip.end_s - clip.start_s + 0.5) * SAMPLE_RATE), np.float32)
        for note in clip.notes:
            _add(out, some[note.key % len(some)] * (note.velocity / 127), note.start_s - clip.start_s)
        made.append(audio.clean(out))
    return [clip for clip in made if clip is not None]


def key_of(name: str) -> int | None:
    """MIDI key of a note's file name: "A3" -> 57, "As3" and "A#3" -> 58; None if it names no note."""
    if not (found := re.fullmatch(r"([a-gA-G])(s|#|b)?(-?\d)", name)):
        return None
    letter, sign, octave = found.groups()
    return _STEPS[letter.lower()] + {"s": 1, "#": 1, "b": -1, None: 0}[sign] + 12 * (int(octave) + 1)


def notes(files: Mapping[int, Path], instrument: melody.Instrument, n: int, rng: random.Random) -> list[np.ndarray]:
    """`n` melodies played with recorded single notes (by MIDI key), each moved by at most a few semitones."""
    recorded = {key: audio.read(path, _OVERSAMPLED) for key, path in files.items()}
    low, high = max(instrument.low, min(recorded) - 1), min(instrument.high, max(recorded) + 1)
    within = replace(instrument, low=low, high=max(high, low + 12))
    made = []
    for clip in melody.write_clips(within, [(0, 0)], n, rng):
        out = np.zeros(int((clip.end_s - clip.start_s + 1) * SAMPLE_RATE), np.float32)
        for note in clip.notes:
            nearest = min(recorded, key=lambda key, want=note.key: abs(key - want))  # type: ignore[misc]
            if abs(nearest - note.key) > _REACH:
                continue
            tone = _moved(recorded[nearest], note.key - nearest, note.end_s - note.start_s)
            _add(out, tone * (note.velocity / 127), note.start_s - clip.start_s)
        made.append(audio.clean(out))
    return [clip for clip in made if clip is not None]


def _moved(tone: np.ndarray, semitones: int, length_s: float) -> np.ndarray:
    """A tone at _OVERSAMPLED -> at SAMPLE_RATE, higher by `semitones`, ending in a short release after length_s."""
    step = 2 ** (semitones / 12) * _OVERSAMPLED / SAMPLE_RATE
    release = int(0.15 * SAMPLE_RATE)
    size = min(int(length_s * SAMPLE_RATE) + release, int(len(tone) / step))
    at = np.arange(size) * step
    out = np.interp(at, np.arange(len(tone)), tone).astype(np.float32)
    tail = min(release, size)
    if tail:
        out[-tail:] *= np.linspace(1, 0, tail, dtype=np.float32)
    return out


def _add(out: np.ndarray, sound: np.ndarray, at_s: float) -> None:
    start = int(at_s * SAMPLE_RATE)
    sound = sound[: max(0, len(out) - start)]
    out[start : start + len(sound)] += sound
