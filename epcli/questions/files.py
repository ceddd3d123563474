"""Reading files of questions: JSON, JSONL, CSV, TSV, text and Parquet rows, and where their media lie."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from epcli.errors import UsageError
from epcli.media.suffixes import MEDIA_SUFFIXES
from epcli.text import read_text

# Tried in this order where a published set names a file without its ending.
MEDIA_ENDINGS = (".mp4", ".MP4", ".mkv", ".webm", ".mov", ".avi", ".m4a", ".mp3", ".wav", ".flac", ".png", ".jpg")


class Row(dict[str, Any]):
    """One record of a file."""

    place: str  # where it stands there, for messages: "line 3"

    def __init__(self, record: Mapping[str, Any], place: str) -> None:
        super().__init__(record)
        self.place = place


def read_rows(path: Path) -> list[Row]:
    """The records of a file, in order; what its name ends with says how they are written.

    .json (a list, or a mapping by id), .jsonl or .ndjson (an object a line), .csv or .tsv (the first line names the
    columns), .parquet; any other is text, a question a line, without empty lines and those that begin with #.
    A mapping's key is put into each record as "_id". Raises UsageError.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        return [Row(row, f"row {number}") for number, row in enumerate(_read_parquet(path), 1)]
    text = read_text(path)
    if kind in (".jsonl", ".ndjson"):
        return [_record(path, line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if kind == ".json":
        return _read_json(path, text)
    if kind in (".csv", ".tsv"):
        return _read_table(path, text, "\t" if kind == ".tsv" else ",")
    lines = ((number, line.strip()) for number, line in enumerate(re.split("\r\n|\r|\n", text), 1))
    return [Row({"question": line}, f"line {number}") for number, line in lines if line and not line.startswith("#")]


def _read_json(path: Path, text: str) -> list[Row]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path.name}: is not JSON: {error}") from None
    if isinstance(whole, dict):
        whole = [{"_id": key, **value} for key, value in whole.items() if isinstance(value, dict)]
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        raise UsageError(f"{path.name}: does not hold a list of questions")
    return [Row(row, f"entry {number}") for number, row in enumerate(whole, 1)]


def _read_table(path: Path, text: str, delimiter: str) -> list[Row]:
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        if "question" not in (table.fieldnames or ()):
            raise UsageError(f"{path.name}: the first line must name the columns, and one of them is question")
        return [Row({key: cell for key, cell in row.items() if cell}, f"line {table.line_num}") for row in table]
    except csv.Error as error:
        raise UsageError(f"{path.name}: line {table.line_num + 1} is not CSV: {error}") from None


def _record(path: Path, line: str, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path.name}: line {number} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise UsageError(f'{path.name}: line {number} is not an object; write {{"media": …, "question": …}}')
    return Row(row, f"line {number}")


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UsageError(f"{path.name}: reading Parquet needs pyarrow; run: pip install 'epcli[eval]'") from None
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (OSError, ArrowException) as error:
        raise UsageError(f"{path.name}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    return rows


def listed(value: Any) -> list[str]:
    """The texts of a list, or of a list written as text, as some sets and all tables hold it. Raises ValueError."""
    if isinstance(value, str):
        value = ast.literal_eval(value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is not a list")
    return [str(each) for each in value]


def text_of(row: Mapping[str, Any], key: str) -> str:
    """A field's text. Raises KeyError or ValueError."""
    if not isinstance(row[key], str) or not row[key].strip():
        raise ValueError(f"{key} is not a text")
    return row[key].strip()


class Finder:
    """Where a set's media files are: at their published place below the folder, else anywhere in it by name."""

    def __init__(self, roots: Iterable[Path], *, given: bool = False, search: bool = True) -> None:
        """`roots`: folders to look in, the most likely first. `given`: the user named the first. `search`: also look
        through the first by name."""
        self.roots, self.given, self.search = list(roots), given, search

    @cached_property
    def _everything(self) -> dict[str, Path]:
        """{file name: path} of everything below the first root."""
        found: dict[str, Path] = {}
        for path in sorted(self.roots[0].rglob("*")):
            if path.suffix.lower() in MEDIA_SUFFIXES and path.is_file():
                found.setdefault(path.name, path)
        return found

    def find(self, *places: str) -> Path:
        """The first of the relative `places` that is a file; a place that is nowhere is returned as published.

        A place may leave its ending open ("data/abc.*").
        """
        names = [n for place in places for n in _with_endings(place)]
        for root in self.roots:
            for name in names:
                if (path := root / name).is_file():
                    return path
        for name in names if self.search else ():
            if (elsewhere := self._everything.get(Path(name).name)) is not None:
                return elsewhere
        return self.roots[0] / names[0]


def _with_endings(place: str) -> list[str]:
    return [place[:-2] + ending for ending in MEDIA_ENDINGS] if place.endswith(".*") else [place]
