"""The output file: a copy of the ledger's rows as JSON Lines, CSV or Parquet.

JSON Lines grow by a line a row. Before a run they are compared with the ledger, byte by byte: a line that was cut off
or never written is completed, and a file that differs otherwise (rows of changed files were dropped, or someone edited
it) is written anew. CSV and Parquet are written when a run ends. A whole file is written under another name and moved.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from epcli.batch.ledger import Ledger
from epcli.errors import EpError, UsageError

# Columns of CSV and Parquet: their values in a row of JSON Lines, and their type in Parquet.
_COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "media": ("string", lambda row: row["media"]),
    "question": ("string", lambda row: row["question"]),
    "id": ("string", lambda row: row.get("id")),
    "status": ("string", lambda row: row["status"]),
    "answer": ("string", lambda row: row.get("answer")),
    "error": ("string", lambda row: row.get("error")),
    "warnings": ("string", lambda row: "\n".join(row["warnings"])),
    "duration_s": ("float64", lambda row: _report(row, "media", "duration_s")),
    "video_tokens": ("int64", lambda row: _report(row, "tokens", "video", "total")),
    "video_kept": ("int64", lambda row: _report(row, "tokens", "video", "kept")),
    "audio_tokens": ("int64", lambda row: _report(row, "tokens", "audio", "total")),
    "audio_kept": ("int64", lambda row: _report(row, "tokens", "audio", "kept")),
    "keep_ratio": ("float64", lambda row: _report(row, "tokens", "keep_ratio")),
    "total_s": ("float64", lambda row: _report(row, "timings_s", "total")),
    "content": ("string", lambda row: row.get("content")),
    "finished": ("string", lambda row: row["finished"]),
    "report": ("string", lambda row: json.dumps(row["report"], ensure_ascii=False) if row.get("report") else None),
}


def _report(row: dict[str, Any], *keys: str) -> Any:
    value: Any = row.get("report")
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


class Output:
    """The output of one ledger, in the format that its suffix names."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError for a format that is not known, or whose library is missing: before hours of work."""
        self.path, self.format = path, path.suffix.lower()
        if self.format not in (".jsonl", ".csv", ".parquet"):
            raise UsageError(f"--out {path}: give it a name that ends in .jsonl, .csv or .parquet")
        if self.format == ".parquet":
            try:
                import pyarrow.parquet  # noqa: F401
            except ImportError:
                raise UsageError(
                    f"--out {path}: Parquet needs pyarrow; install it with: pip install 'epcli[parquet]'"
                ) from None
        self._lines: IO[bytes] | None = None

    def begin(self, ledger: Ledger) -> None:
        """Bring JSON Lines up to the ledger and open them for more. Raises EpError if they cannot be written."""
        if self.format == ".jsonl":
            with self._trouble():
                self.close()
                self._synchronize(ledger)
                self._lines = self.path.open("ab", buffering=0)

    def append(self, line: str) -> None:
        """Add the line of a row that the ledger has just committed."""
        if self._lines is not None:
            with self._trouble():
                self._lines.write(line.encode() + b"\n")  # one write: other programs see whole lines

    def end(self, ledger: Ledger) -> None:
        """The file is complete when this returns."""
        with self._trouble():
            self.close()
            if self.format == ".jsonl":
                self._synchronize(ledger)
            elif self.format == ".csv":
                with self._replacing() as file:
                    _write_csv(file, ledger)
            else:
                with self._replacing() as file:
                    _write_parquet(file, ledger)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _synchronize(self, ledger: Ledger) -> None:
        rows = ledger.rows()
        good = 0  # bytes at the beginning that are the ledger's
        rest: list[bytes] = []  # the first line that is not there
        same = True
        if self.path.exists():
            with self.path.open("rb") as file:
                for row in rows:
                    expected = row.encode() + b"\n"
                    found = file.readline()
                    if found != expected:
                        rest.append(expected)
                        same = expected.startswith(found) and not file.read(1)  # nothing, or a line cut off
                        break
                    good += len(expected)
                else:
                    same = not file.read(1)
        if not same:
            with self._replacing() as file:
                file.writelines(line.encode() + b"\n" for line in ledger.rows())
            return
        with self.path.open("ab") as file:
            file.truncate(good)
            file.writelines(rest)
            file.writelines(line.encode() + b"\n" for line in rows)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _replacing(self) -> Iterator[IO[bytes]]:
        temporary = self.path.with_name(f"{self.path.name}.part")
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EpError(
                f"{self.path}: cannot be written: {error.strerror or error}; no row is lost, the same command writes it"
            ) from error


def _table(ledger: Ledger) -> Iterator[list[Any]]:
    for line in ledger.rows():
        row = json.loads(line)
        yield [value(row) for _, value in _COLUMNS.values()]


def _text(value: Any) -> Any:
    """A file name that is no UTF-8 must not end the table: its bytes become escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _write_csv(file: IO[bytes], ledger: Ledger) -> None:
    import io

    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    table = csv.writer(text)
    table.writerow(_COLUMNS)
    table.writerows([_text(value) for value in row] for row in _table(ledger))
    text.detach()


def _write_parquet(file: IO[bytes], ledger: Ledger) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, (kind, _) in _COLUMNS.items()])
    with pq.ParquetWriter(file, schema) as table:
        rows: list[list[Any]] = []

        def write() -> None:
            columns = [[_text(row[number]) for row in rows] for number in range(len(_COLUMNS))]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            table.write_table(pa.Table.from_arrays(arrays, schema=schema))
            rows.clear()

        for row in _table(ledger):
            rows.append(row)
            if len(rows) == 1000:
                write()
        write()  # an empty table has its columns too
