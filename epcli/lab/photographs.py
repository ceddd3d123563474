"""Photographs of free packages with what a person saw in them: sources/data/photographs.tsv.

Its columns: the package (a key of `sources.fetch`) and the end of the file's path; a group; a true short answer; the
names that are right, those of what is to be seen too, and those that are neither right nor wrong (patterns, without
plural endings); how many people ("-": not to be asked); how many of what; the words to be read; degrees to turn.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image, ImageOps

from epcli.errors import EpError

TABLE = Path(__file__).parent / "sources" / "data" / "photographs.tsv"
ENDINGS = {".jpg", ".png", ".webp"}
# What anything of a group may be called.
COARSE = {
    "animal": "animal|creature|wildlife|mammal",
    "person": "people|person|somebody|someone",
    "building": "building|structure|monument|architecture",
    "vehicle": "vehicle",
    "plant": "plant",
    "instrument": "instrument",
    "place": "landscape|scenery|outdoors|nature",
    "food": "food",
    "thing": "object",
}


def named(names: str) -> str:
    """A pattern for any of these names, plurals too. `names`: patterns between bars."""
    return rf"\b(?:{names})(?:e?s)?\b"


@dataclass(frozen=True)
class Photo:
    """A photograph and its truth. `people` None: too many or too small to count."""

    path: Path
    group: str
    answer: str
    accept: str
    also: str
    near: str
    people: int | None
    count: tuple[int, str] | None
    text: str
    turn: int

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        with Image.open(self.path) as image:
            width, height = ImageOps.exif_transpose(image).size
        return (height, width) if self.turn % 180 else (width, height)

    @cached_property
    def right(self) -> str:
        """The names that answer what is seen, coarse ones too."""
        return "|".join(filter(None, (self.accept, COARSE[self.group])))

    @cached_property
    def true(self) -> str:
        """What is right, and what may be said beside it."""
        return "|".join(filter(None, (self.right, self.also)))

    @cached_property
    def possible(self) -> str:
        """All that is not false."""
        return "|".join(filter(None, (self.true, self.near)))


def photographs(folders: Mapping[str, Path]) -> list[Photo]:
    """Every row of the table. `folders`: of the fetched packages, by key. Raises EpError if a file is not there."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    files = {
        key: sorted(p for p in folders[key].resolve().rglob("*") if p.suffix in ENDINGS)
        for key in {r["package"] for r in rows}
    }
    return [_photo(row, files[row["package"]]) for row in rows]


def _photo(row: Mapping[str, str], files: list[Path]) -> Photo:
    found = [path for path in files if path.as_posix().endswith(f"/{row['file']}")]
    if len(found) != 1:
        raise EpError(f"photographs.tsv: {row['package']} has {len(found)} files {row['file']}, not one")
    number, _, what = row["count"].partition(" ")
    return Photo(
        found[0],
        row["group"],
        row["answer"],
        row["accept"],
        row["also"],
        row["near"],
        int(row["people"]) if row["people"].isdigit() else None,
        (int(number), what) if what else None,
        row["text"],
        int(row["turn"] or 0),
    )


def matches(names: str, word: str) -> bool:
    """Whether the word is one of the names."""
    return re.fullmatch(named(names), word, re.IGNORECASE) is not None
