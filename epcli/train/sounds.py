"""Single sounds, each changed in many ways, for the head that names what sounds.

Scenes hold a sound as its source recorded it, a few times each. A name must also be known from another instrument, room
and microphone, so every sound is heard higher and lower, in rooms, through filters and noise, and with another one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from epcli.models.ep_smol import level
from epcli.models.yamnet import Yamnet
from epcli.records import SAMPLE_RATE
from epcli.train.scenes import Library, Thing, load_sound

LENGTH_S = 2.9  # five or six of YAMNet's patches
SEMITONES = {"instrument": 5.0}  # up or down at most; others:
OTHERS = 2.0


def higher(voice: np.ndarray, semitones: float) -> np.ndarray:
    """(S,) -> (S / 2^(semitones/12),): faster and higher, as a record played so."""
    step = 2 ** (semitones / 12)
    return np.interp(np.arange(0, len(voice) - 1, step), np.arange(len(voice)), voice).astype(np.float32)


def coloured(voice: np.ndarray, nr: np.random.Generator) -> np.ndarray:
    """(S,) -> (S,): through a smooth random filter (12 dB either way) and, often, a small room."""
    spectrum = np.fft.rfft(voice)
    octaves = np.log2(np.fft.rfftfreq(len(voice), 1 / SAMPLE_RATE) / 60 + 1)  # 0 to about 7
    gains = np.interp(octaves, np.arange(8), nr.uniform(-12, 12, 8) * nr.uniform(0, 1))
    spectrum *= 10 ** (gains / 20)
    if nr.random() < 0.4:
        tail = np.arange(round(nr.uniform(0.08, 0.5) * SAMPLE_RATE))
        room = nr.normal(size=len(tail)) * np.exp(-5 * tail / len(tail)) * nr.uniform(0.02, 0.15)
        room[0] = 1.0
        spectrum *= np.fft.rfft(room, len(voice))
    return np.fft.irfft(spectrum, len(voice)).astype(np.float32)


def changed(thing: Thing, path: Path, nr: np.random.Generator) -> np.ndarray:
    """(LENGTH_S * SAMPLE_RATE,) float32, at about -20 dBFS: a stretch of a sound, repeated if it is short, changed."""
    most = SEMITONES.get(thing.group, OTHERS)
    voice = higher(load_sound(path), float(np.clip(nr.normal(0, most / 2), -most, most)))
    count = round(LENGTH_S * SAMPLE_RATE)
    if len(voice) < count:
        gap = np.zeros(nr.integers(0, SAMPLE_RATE // 2), np.float32) if nr.random() < 0.5 else voice[:0]
        once = np.concatenate([voice, gap])
        voice = np.tile(once, count // max(len(once), 1) + 1)
    start = nr.integers(0, len(voice) - count + 1) if nr.random() < 0.5 else 0
    voice = coloured(voice[start : start + count], nr)
    return voice / (float(np.sqrt((voice**2).mean())) + 1e-5) * 0.1


def make_sounds(
    lib: Library,
    yamnet: Yamnet,
    times: int,
    seed: int,
    folder: Path,
    say: Callable[[str], None] = print,
    together: float = 0.35,
) -> None:
    """Write sounds.safetensors into `folder`: every sound `times` changed, a share `together` with another thing.

    features (N, P, 1024) float16; labels (N, 2) int64 indices into Library.heard_names, -1 for no second one.
    """
    rng, nr = random.Random(seed), np.random.default_rng(seed)
    number = {name: i for i, name in enumerate(lib.heard_names)}
    jobs = [(thing, path) for thing in lib.heard for path in thing.sounds] * times
    rng.shuffle(jobs)
    features, labels = [], []
    for i in range(0, len(jobs), 16):
        batch = []
        for thing, path in jobs[i : i + 16]:
            sound, second = changed(thing, path, nr), -1
            if rng.random() < together:
                other = rng.choice(lib.heard)
                if lib.differ(other, thing):
                    sound = sound + changed(other, rng.choice(other.sounds), nr) * 10 ** nr.uniform(-0.4, 0.1)
                    second = number[other.name]
            sound = sound + nr.normal(0, 10 ** nr.uniform(-4.5, -2.0), len(sound)).astype(np.float32)
            batch.append(level(sound))
            labels.append([number[thing.name], second])
        with torch.inference_mode():
            features.append(yamnet(torch.from_numpy(np.stack(batch)))[0].half())
        if i % 1600 == 0:
            say(f"sounds: {i}/{len(jobs)}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"features": torch.cat(features), "labels": torch.tensor(labels)}, folder / "sounds.safetensors")


def load_sounds(folder: Path, names: int) -> tuple[Tensor, Tensor]:
    """(M, 1024) float16 features of patches and (M, names) float32: which things sound in each."""
    file = load_file(folder / "sounds.safetensors")
    features, labels = file["features"], file["labels"]
    which = torch.zeros(len(labels), names + 1)
    which.scatter_(1, torch.where(labels < 0, names, labels), 1.0)
    return features.flatten(0, 1), which[:, :names].repeat_interleave(features.shape[1], 0)
