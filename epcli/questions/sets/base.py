"""What a question format says about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epcli.questions.files import Finder, Row
from epcli.questions.record import Question, choice


@dataclass(frozen=True)
class Format:
    """One layout of question files. `load` turns a row of the file into questions, none if the row is not meant."""

    name: str  # as --format takes it
    title: str  # as people write it
    files: tuple[str, ...]  # globs of the questions' file below the set's folder, best first
    fields: frozenset[str]  # that its first row has
    # The row, its number from 1, where media are, the questions' file. Raises KeyError, TypeError or ValueError.
    load: Callable[[Row, int, Finder, Path], Iterable[Question]]
    order: int = 1  # formats are tried from the lowest on

    def fits(self, rows: list[Row]) -> bool:
        return bool(rows) and self.fields <= rows[0].keys()


def multiple_choice(key: str, media: Path, row: Mapping[str, Any], options: Sequence[str], cluster: str) -> Question:
    """A row with its question, answer and type in the columns that most sets use. Raises KeyError without one."""
    question, gold, kind = row["question"], str(row["answer"]), str(row["task_type"])
    return choice(key, media, question, options, gold, type=kind, cluster=cluster)
