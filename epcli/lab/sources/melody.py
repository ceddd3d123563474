"""Writes random music: short clips for one instrument, one after the other in one MIDI file, to be rendered."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

import mido

from epcli.lab.sources.catalog import table

SCALES = ([0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10], [0, 2, 4, 7, 9], [0, 3, 5, 7, 10], [0, 2, 3, 5, 7, 9, 10])
DRUM_CHANNEL = 9
DRUM_BANK = 128
# Chance that a drum is struck on a step of the pattern: bass, snare, closed and open hi-hat, crash, toms.
KIT = {36: 0.35, 38: 0.3, 42: 0.6, 46: 0.1, 49: 0.05, 45: 0.12, 48: 0.1}
_TICKS_PER_BEAT = 480
_TICKS_PER_S = 960  # at the 120 beats a minute that a MIDI file without a tempo has
_GAP_S = 1.5  # silence between two clips, for the last note to fade


@dataclass(frozen=True)
class Instrument:
    """How to play one thing. `low` and `high` are MIDI keys; `struck` the drum-channel keys, for strokes."""

    name: str
    programs: tuple[tuple[int, int], ...]  # (bank, program)
    style: str  # melody, strokes, kit, hold, repeat
    thing: str  # what is heard; several may be the same thing (a passing and a skidding car)
    low: int = 0
    high: int = 127
    chords: float = 0.0
    struck: tuple[int, ...] = ()


@dataclass(frozen=True)
class Note:
    """One key pressed from start_s to end_s; velocity 1 to 127."""

    start_s: float
    end_s: float
    key: int
    velocity: int


@dataclass(frozen=True)
class RenderedClip:
    """One clip of a render: where it lies in the file, and what is played by which program."""

    start_s: float
    end_s: float
    bank: int
    program: int
    notes: tuple[Note, ...]  # their times count from the start of the file


def instruments() -> list[Instrument]:
    """All of instruments.yaml."""
    found = []
    for name, entry in table("instruments").items():
        programs = tuple((int(b), int(p)) for b, p in (text.split(":") for text in entry["programs"].split()))
        low, high = (int(key) for key in entry.get("keys", "0 127").split())
        struck = tuple(int(key) for key in entry.get("keys_played", "").split())
        found.append(
            Instrument(
                name,
                programs,
                entry["style"],
                entry.get("thing", name),
                low,
                high,
                float(entry.get("chords", 0)),
                struck,
            )
        )
    return found


def write_clips(
    instrument: Instrument, programs: Sequence[tuple[int, int]], n: int, rng: random.Random
) -> list[RenderedClip]:
    """`n` random clips of 4 to 6 s, taking `programs` in turn."""
    write = {"melody": _melody, "strokes": _strokes, "kit": _kit, "hold": _hold, "repeat": _repeat}[instrument.style]
    clips, start = [], 0.1
    for i in range(n):
        end = start + rng.uniform(4.0, 6.0)
        bank, program = programs[i % len(programs)]
        notes = tuple(sorted(write(instrument, start, end, rng), key=lambda note: (note.start_s, note.key)))
        clips.append(RenderedClip(start, end, bank, program, notes))
        start = end + _GAP_S
    return clips


def _melody(instrument: Instrument, start: float, end: float, rng: random.Random) -> list[Note]:
    """A walk along a scale, within the instrument's keys, in one register; some clips in chords, some legato."""
    span = min(instrument.high - instrument.low, rng.choice([12, 17, 24]))
    root = rng.randint(instrument.low, instrument.high - span)
    scale = rng.choice(SCALES)
    keys = [root + octave + step for octave in (0, 12, 24) for step in scale if octave + step <= span]
    chords, legato = rng.random() < instrument.chords, rng.random() < 0.4
    beat, loud, spread = rng.uniform(0.16, 0.75), rng.randint(55, 112), rng.choice([0.0, 0.0, 0.02, 0.05])
    at, t, notes = rng.randrange(len(keys)), start + rng.uniform(0, 0.25), []
    while t < end - 0.15:
        length = beat * rng.choice([0.5, 1, 1, 1, 2, 3])
        played = {keys[at]}
        if chords:
            played |= {keys[(at + 2) % len(keys)], keys[(at + 4) % len(keys)]}
        if rng.random() > 0.08:  # else a rest
            sounding = length * (1.02 if legato else rng.uniform(0.5, 0.95))
            velocity = max(25, min(127, loud + rng.randint(-18, 15)))
            notes += [
                Note(t + i * spread, max(t + i * spread + 0.05, min(t + sounding, end)), key, velocity)
                for i, key in enumerate(sorted(played))
            ]
        at = max(0, min(len(keys) - 1, at + rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3, rng.randint(-6, 6)])))
        t += length
    return notes


def _strokes(instrument: Instrument, start: float, end: float, rng: random.Random) -> list[Note]:
    """One percussion instrument in a repeated rhythm."""
    step, loud = rng.uniform(0.11, 0.42), rng.randint(75, 115)
    rhythm = [rng.random() < rng.choice([0.5, 0.7, 1.0]) for _ in range(rng.choice([4, 6, 8, 12]))]
    rhythm[0] = True
    few = rng.sample(instrument.struck, rng.randint(1, min(3, len(instrument.struck))))
    t, i, notes = start + rng.uniform(0, 0.25), 0, []
    while t < end - 0.1:
        if rhythm[i % len(rhythm)]:
            notes.append(Note(t, t + 0.09, rng.choice(few), max(30, min(127, loud + rng.randint(-25, 12)))))
        t, i = t + step, i + 1
    return notes


def _kit(instrument: Instrument, start: float, end: float, rng: random.Random) -> list[Note]:
    """A drum kit: a random pattern of up to 16 steps, repeated, with small changes."""
    step = 30 / rng.uniform(70, 165)
    steps = rng.choice([8, 12, 16])
    pattern = [[key for key, chance in KIT.items() if rng.random() < chance] for _ in range(steps)]
    pattern[0] = pattern[0] or [36]
    t, i, notes = start + rng.uniform(0, 0.2), 0, []
    while t < end - 0.1:
        notes += [Note(t, t + 0.09, key, rng.randint(60, 122)) for key in pattern[i % steps] if rng.random() < 0.95]
        t, i = t + step, i + 1
    return notes


def _hold(instrument: Instrument, start: float, end: float, rng: random.Random) -> list[Note]:
    """One long sound; in half of the clips begun again in the middle, for effects that end by themselves."""
    key, velocity = rng.randint(instrument.low, instrument.high), rng.randint(85, 120)
    if rng.random() < 0.5:
        return [Note(start, end - 0.2, key, velocity)]
    middle = rng.uniform(start + 1.5, end - 1.5)
    return [Note(start, middle - 0.05, key, velocity), Note(middle, end - 0.2, key, velocity)]


def _repeat(instrument: Instrument, start: float, end: float, rng: random.Random) -> list[Note]:
    """A short sound, a few times."""
    key, t, notes = rng.randint(instrument.low, instrument.high), start + rng.uniform(0, 0.3), []
    while t < end - 0.5:
        length = rng.uniform(0.4, 1.6)
        notes.append(Note(t, min(t + length - 0.05, end), key, rng.randint(80, 122)))
        t += length
    return notes


def midi(clips: Sequence[RenderedClip], rng: random.Random) -> bytes:
    """The clips as a standard MIDI file, each with its own program and a random amount of reverberation."""
    events: list[tuple[float, int, mido.Message]] = []
    for clip in clips:
        drums = clip.bank == DRUM_BANK
        channel = DRUM_CHANNEL if drums else 0
        before = clip.start_s - 0.05
        if not drums:
            events.append((before, 0, mido.Message("control_change", channel=channel, control=0, value=clip.bank)))
        events.append((before, 1, mido.Message("program_change", channel=channel, program=clip.program)))
        reverb = rng.choice([0, 20, 40, 70])
        events.append((before, 2, mido.Message("control_change", channel=channel, control=91, value=reverb)))
        for note in clip.notes:
            on = mido.Message("note_on", channel=channel, note=note.key, velocity=note.velocity)
            off = mido.Message("note_off", channel=channel, note=note.key)
            events += [(note.start_s, 4, on), (note.end_s, 3, off)]  # off before on, where a key is struck again
    track, now = mido.MidiTrack(), 0
    for second, _, message in sorted(events, key=lambda event: (event[0], event[1])):
        tick = round(second * _TICKS_PER_S)
        track.append(message.copy(time=tick - now))
        now = tick
    track.append(mido.MetaMessage("end_of_track", time=round(_GAP_S * _TICKS_PER_S)))
    buffer = io.BytesIO()
    mido.MidiFile(type=0, ticks_per_beat=_TICKS_PER_BEAT, tracks=[track]).save(file=buffer)
    return buffer.getvalue()
