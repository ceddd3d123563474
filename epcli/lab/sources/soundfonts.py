"""Renders melodies with a sound font (FluidSynth) or with FreePats' patches (TiMidity++)."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from epcli.errors import MediaError
from epcli.lab.sources import audio, melody
from epcli.lab.sources.fetch import run
from epcli.records import SAMPLE_RATE

# Rendered at twice the rate and filtered down, or a high note's harmonics would fold back below 8 kHz.
_RENDER_RATE = 2 * SAMPLE_RATE


def presets(font: Path) -> set[tuple[int, int]]:
    """(bank, program) of every preset of a SoundFont 2 file: its chunk "phdr", 38 bytes each, the last a sentinel."""
    raw = font.read_bytes()
    start = raw.rfind(b"phdr")
    if raw[:4] != b"RIFF" or start < 0:
        raise MediaError(f"{font.name}: not a SoundFont 2 file")
    size = struct.unpack_from("<I", raw, start + 4)[0]
    heads = (struct.unpack_from("<20xHH", raw, start + 8 + at) for at in range(0, size - 38, 38))
    return {(bank, program) for program, bank in heads}


def patches(folder: Path) -> set[tuple[int, int]]:
    """(bank, program) of every patch that FreePats' configuration names and the package has."""
    found, bank = set(), 0
    root = next(folder.rglob("Tone_000")).parent
    for line in next((folder / "etc").rglob("freepats.cfg")).read_text(errors="replace").splitlines():
        words = line.split("#")[0].split()
        if len(words) == 2 and words[0] in ("bank", "drumset"):
            bank = int(words[1]) + (melody.DRUM_BANK if words[0] == "drumset" else 0)
        elif len(words) >= 2 and words[0].isdigit() and (root / words[1]).exists():
            found.add((melody.DRUM_BANK, 0) if bank >= melody.DRUM_BANK else (bank, int(words[0])))
    return found


def fonts(folders: Mapping[str, Path]) -> dict[str, tuple[Path, set[tuple[int, int]]]]:
    """Source -> its font file (FreePats: its folder) and the programs in it."""
    found = {}
    for key in ("fluid", "fluid-gs", "sonivox", "timgm6mb"):
        font = next(folders[key].rglob("*.sf2"))
        found[key] = (font, presets(font))
    found["freepats"] = (folders["freepats"], patches(folders["freepats"]))
    return found


def play(font: Path, programs: set[tuple[int, int]], what: melody.Instrument, n: int, seed: str) -> list[np.ndarray]:
    """`n` clips of an instrument, float32 at SAMPLE_RATE, less silent ones; none where the font lacks it."""
    if not (there := [p for p in what.programs if p in programs]):
        return []
    rng = random.Random(seed)
    clips = melody.write_clips(what, there, n, rng)
    with tempfile.TemporaryDirectory() as work:
        score, sound = Path(work, "score.mid"), Path(work, "sound.wav")
        score.write_bytes(melody.midi(clips, rng))
        if font.is_dir():
            settings = Path(work, "timidity.cfg")
            patches_folder = next(font.rglob("Tone_000")).parent
            settings.write_text(f"dir {patches_folder}\nsource {next((font / 'etc').rglob('freepats.cfg'))}\n")
            run(["timidity", "-c", str(settings), "-Ow", "-s", str(_RENDER_RATE), "-o", str(sound), str(score)])
        else:
            quick = ["-o", "synth.dynamic-sample-loading=1", "-g", "0.5"]
            run(["fluidsynth", "-niq", "-r", str(_RENDER_RATE), *quick, "-F", str(sound), str(font), str(score)])
        samples = audio.read(sound)
    pieces = [samples[int(c.start_s * SAMPLE_RATE) : int((c.end_s + 0.4) * SAMPLE_RATE)] for c in clips]
    return [clean for piece in pieces if (clean := audio.clean(piece)) is not None]
