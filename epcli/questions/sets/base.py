"""What a loader of a question set says about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from epcli.questions.items import Item
from epcli.questions.sets.files import Finder, Row


@dataclass(frozen=True)
class Format:
    """One published layout. `load` turns the annotation file's rows into questions."""

    name: str  # as --format takes it
    title: str  # as people write it
    files: tuple[str, ...]  # globs of the annotation file below the set's folder, best first
    fields: frozenset[str]  # that its first row has
    load: Callable[[list[Row], Finder, Path], Iterable[Item]]  # rows, where media are, the annotation file

    def fits(self, rows: list[Row]) -> bool:
        return bool(rows) and self.fields <= rows[0].keys()
