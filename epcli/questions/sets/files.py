"""Reading the files of published sets: JSON, JSONL and Parquet rows, and where a set's media lie."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from epcli.errors import UsageError

Row = dict[str, Any]
MEDIA_ENDINGS = (".mp4", ".MP4", ".mkv", ".webm", ".mov", ".avi", ".m4a", ".mp3", ".wav", ".flac", ".png", ".jpg")


def read_rows(path: Path) -> list[Row]:
    """The records of a .json (list, or mapping by id), .jsonl or .parquet file, in order.

    A mapping's key is put into each record as "_id". Raises UsageError.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"{path}: cannot be read: {reason}") from None
    if path.suffix == ".jsonl":
        return [_record(path, line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        whole = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path.name}: is not JSON: {error}") from None
    if isinstance(whole, dict):
        whole = [{"_id": key, **value} for key, value in whole.items() if isinstance(value, dict)]
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        raise UsageError(f"{path.name}: does not hold a list of questions")
    return whole


def _record(path: Path, line: str, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path.name}: line {number} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise UsageError(f"{path.name}: line {number} is not a question, it needs to be a JSON object")
    return row


def _read_parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UsageError(f"{path.name}: reading Parquet needs pyarrow; run: pip install 'epcli[eval]'") from None
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
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


class Finder:
    """Where a set's media files are: at their published place below the folder, else anywhere in it by name."""

    def __init__(self, roots: Iterable[Path]) -> None:
        """`roots`: folders to look in, the most likely first; only the first is searched through."""
        self.roots = list(roots)

    @cached_property
    def _everything(self) -> dict[str, Path]:
        """{file name: path} of everything below the first root."""
        found: dict[str, Path] = {}
        for path in sorted(self.roots[0].rglob("*")):
            if path.suffix in MEDIA_ENDINGS and path.is_file():
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
        for name in names:
            if (elsewhere := self._everything.get(Path(name).name)) is not None:
                return elsewhere
        return self.roots[0] / names[0]


def _with_endings(place: str) -> list[str]:
    return [place[:-2] + ending for ending in MEDIA_ENDINGS] if place.endswith(".*") else [place]
