"""The whole build, step by step; every step uses again what an earlier run already made."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from epcli.errors import MediaError
from epcli.train.sources import audio, melody, pictures, soundfonts
from epcli.train.sources.pictures import Picture

WORKERS = 2
CLIPS = 10  # of each instrument and font


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def draw_all(wanted: Iterable[Picture], out: Path) -> list[Picture]:
    """Draw what is not there yet. Returns the pictures that can be seen."""

    def one(picture: Picture) -> Picture | None:
        target = out / picture.path
        if target.exists():
            return picture
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            image = pictures.draw(picture)
        except MediaError as error:
            say(f"left out: {error}")
            return None
        partial = target.with_suffix(".part")
        image.save(partial, "PNG")
        partial.replace(target)
        return picture

    with ThreadPoolExecutor(WORKERS) as pool:
        return [picture for picture in pool.map(one, wanted) if picture]


def play_all(folders: Mapping[str, Path], out: Path) -> dict[str, dict[str, list[str]]]:
    """Source -> thing -> its clips, rendering those that are not there yet."""
    fonts = soundfonts.fonts(folders)
    jobs = [(key, instrument) for key in fonts for instrument in melody.instruments()]

    def one(job: tuple[str, melody.Instrument]) -> list[str]:
        key, instrument = job
        name = pictures.slug(instrument.name)
        if there := sorted((out / "sounds" / key).glob(f"{name}-[0-9][0-9].flac")):
            return [str(path.relative_to(out)) for path in there]
        clips = soundfonts.play(*fonts[key], instrument, CLIPS, f"{key} {instrument.name}")
        paths = [f"sounds/{key}/{name}-{i:02}.flac" for i in range(len(clips))]
        for path, clip in zip(paths, clips, strict=True):
            audio.write(out / path, clip)
        return paths

    made: dict[str, dict[str, list[str]]] = {key: {} for key in fonts}
    with ThreadPoolExecutor(WORKERS) as pool:
        for (key, instrument), paths in zip(jobs, pool.map(one, jobs), strict=True):
            if paths:
                made[key].setdefault(instrument.thing, []).extend(paths)
    return made
