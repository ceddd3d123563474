"""Many small media files that all differ, and a tiny model to ask about them."""

from __future__ import annotations

import random
import shutil
import struct
from functools import cache
from pathlib import Path

import media_samples as samples
import tiny_omni

from epcli.config import Profile


@cache
def model() -> Path:
    """A tiny random Qwen2.5-Omni."""
    return tiny_omni.write(samples.home() / "tiny-omni")


@cache
def seed_film() -> Path:
    """Half a second of 64 x 48 pictures and of a tone."""
    return samples.film(samples.home() / "seed.mp4", duration=0.5)


def profile(**settings: object) -> Profile:
    """Short answers of the tiny model, nothing cached."""
    return Profile(**{"model": str(model()), "max_new_tokens": 2, "threads": 1, "cache": False, **settings})


def copy(path: Path, number: int) -> Path:
    """The film with other content of the same look: a box that players skip holds the number."""
    note = struct.pack(">I4sQ", 16, b"free", number)
    path.write_bytes(seed_film().read_bytes() + note)
    return path


def fill(folder: Path, count: int, broken: int = 0, seed: int = 0) -> tuple[list[Path], set[str]]:
    """`count` films in the folder and a folder below it; of `broken` of them, spread by chance, only a part is there.

    Returns the paths and the names of the broken.
    """
    (folder / "more").mkdir(parents=True)
    chance = random.Random(seed)
    bad = set(chance.sample(range(count), broken))
    paths = []
    for number in range(count):
        path = copy(folder / ("more" if number % 3 == 0 else ".") / f"{number:04}.mp4", number)
        if number in bad:
            path.write_bytes(path.read_bytes()[: chance.choice((0, 20, 900))])
        paths.append(path)
    return paths, {f"{number:04}.mp4" for number in bad}


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    """A command line of `ep batch` on the tiny model."""
    settings = ["--model", str(model()), "--max-new-tokens", "2", "--threads", "1", "--no-cache"]
    return ["batch", str(folder), "--out", str(out), *settings, *more]


def clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
