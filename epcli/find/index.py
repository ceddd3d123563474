"""The index: one SQLite file of what was said, heard, seen and read in files.

    files ─┬─ lines ──── line_search (FTS5, by stem), vectors (meaning, 8 bits a number), codes (1 bit a number)
           └─ sightings ─ names ──── name_search (FTS5, by stem), with the meaning of each name

A file's rows change in one transaction, so that a process may end at any point. One process writes at a time, under a
lock that the system frees however that process ends; any number may read meanwhile. A file that has gone keeps its rows
for a while, since a disk may be away for a day, and a file may have been moved.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from epcli.config import cache_home
from epcli.errors import EpError, UsageError
from epcli.find.passages import Findings

FORMAT = 2  # of the tables; raise it when they change
OBSERVED = 1  # raise it when the parts report so much more that files should be looked at again, or a mark changes
KEPT_S = 30 * 86400.0  # seconds that the rows of a file that has gone are kept
STEMS = "porter unicode61 remove_diacritics 2"

_HINTS = {
    sqlite3.SQLITE_FULL: "; make room on the disk, and run it again",
    sqlite3.SQLITE_IOERR: "; is the disk full?",
    sqlite3.SQLITE_READONLY: "; the file and its folder must be writable, also to search",
    sqlite3.SQLITE_CANTOPEN: "; the file and its folder must be writable, also to search",
}

_TABLES = f"""
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
  id INTEGER PRIMARY KEY,
  path BLOB NOT NULL UNIQUE,  -- absolute, as the system's bytes: a name need not be UTF-8
  size INTEGER NOT NULL,      -- bytes; with `modified` tells that a file is the same
  modified INTEGER NOT NULL,  -- ns
  content TEXT,               -- SHA-256; NULL if it could not be read
  duration_s REAL NOT NULL DEFAULT 0,
  observed INTEGER NOT NULL,  -- OBSERVED at that time
  failure TEXT,               -- why nothing is known of it
  exit_code INTEGER NOT NULL DEFAULT 0,
  gone REAL                   -- when it was found to be away, seconds since the epoch; NULL while it is there
);
CREATE INDEX files_content ON files (content);
CREATE INDEX files_size ON files (size);
CREATE TABLE lines (
  id INTEGER PRIMARY KEY,
  file INTEGER NOT NULL REFERENCES files,
  how TEXT NOT NULL,
  text TEXT NOT NULL,
  start_s REAL NOT NULL,
  end_s REAL NOT NULL,
  confidence REAL NOT NULL,
  place TEXT NOT NULL
);
CREATE INDEX lines_file ON lines (file);
CREATE TABLE vectors (line INTEGER PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE codes (file INTEGER PRIMARY KEY, first INTEGER NOT NULL, bits BLOB NOT NULL);
CREATE TABLE names (
  id INTEGER PRIMARY KEY,
  how TEXT NOT NULL,
  text TEXT NOT NULL,
  head TEXT NOT NULL,         -- its last word, and that of its plural: engines, of a fire engine
  kinds TEXT NOT NULL,        -- what it is a kind of: vehicle, of a bus
  kind_heads TEXT NOT NULL,   -- their last words
  value BLOB NOT NULL,        -- its meaning
  UNIQUE (how, text)
);
CREATE TABLE sightings (
  file INTEGER NOT NULL REFERENCES files,
  name INTEGER NOT NULL REFERENCES names,
  start_s REAL NOT NULL,
  end_s REAL NOT NULL,
  confidence REAL NOT NULL,
  place TEXT NOT NULL,
  count INTEGER NOT NULL
);
CREATE INDEX sightings_file ON sightings (file, name);
CREATE TABLE holds (
  name INTEGER NOT NULL, file INTEGER NOT NULL, confidence REAL NOT NULL, PRIMARY KEY (name, file)
) WITHOUT ROWID;
CREATE INDEX holds_file ON holds (file);
CREATE TABLE begun (          -- files that are being looked at, or were when the process ended
  path BLOB PRIMARY KEY,
  size INTEGER NOT NULL,
  modified INTEGER NOT NULL,
  observed INTEGER NOT NULL,
  at REAL NOT NULL,           -- when that was, seconds since the epoch
  mark TEXT NOT NULL          -- JSON: where it goes on
);
CREATE TABLE begun_parts (path BLOB NOT NULL, observations TEXT NOT NULL);
CREATE INDEX begun_parts_path ON begun_parts (path);
CREATE VIRTUAL TABLE line_search USING fts5 (text, content = 'lines', content_rowid = 'id', tokenize = '{STEMS}');
CREATE VIRTUAL TABLE name_search USING fts5 (
  text, head, kinds, kind_heads, content = 'names', content_rowid = 'id', tokenize = '{STEMS}'
);
CREATE TRIGGER line_added AFTER INSERT ON lines BEGIN
  INSERT INTO line_search (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER line_dropped AFTER DELETE ON lines BEGIN
  INSERT INTO line_search (line_search, rowid, text) VALUES ('delete', old.id, old.text);
END;
CREATE TRIGGER begun_dropped AFTER DELETE ON begun BEGIN
  DELETE FROM begun_parts WHERE path = old.path;
END;
CREATE TRIGGER name_added AFTER INSERT ON names BEGIN
  INSERT INTO name_search (rowid, text, head, kinds, kind_heads)
    VALUES (new.id, new.text, new.head, new.kinds, new.kind_heads);
END;
"""


@dataclass(frozen=True)
class Known:
    """A file as the index knows it."""

    id: int
    path: Path
    size: int
    modified: int  # ns
    content: str | None
    observed: int
    failed: bool
    gone: bool


_KNOWN = "id, path, size, modified, content, observed, failure IS NOT NULL, gone IS NOT NULL"


def _known(row: Sequence[Any]) -> Known:
    key, path, size, modified, digest, observed, failed, gone = row
    return Known(key, Path(os.fsdecode(path)), size, modified, digest, observed, bool(failed), bool(gone))


@dataclass(frozen=True)
class Totals:
    """What the index holds."""

    files: int  # without those begun
    begun: int  # looked at in part
    failed: int  # and there
    gone: int
    hours: float  # of what is there
    lines: int
    sightings: int
    size_bytes: int


@dataclass(frozen=True)
class Name:
    """What a thing, scene or sound is called."""

    how: str
    text: str
    plural: str = ""
    kinds: tuple[str, ...] = ()  # what it is a kind of


@dataclass(frozen=True)
class Observed:
    """A file that was looked at: what decides whether it is the same later, and what is searched of it."""

    size: int
    modified: int  # ns
    content: str | None
    duration_s: float
    findings: Findings
    line_vectors: np.ndarray  # (number of lines, 384) float32 of length 1
    names: tuple[Name, ...]  # all of the sightings, each once
    name_vectors: np.ndarray  # (number of names, 384)


@dataclass(frozen=True)
class Begun:
    """A file that was looked at in part. The texts are JSON, whose content is the observer's affair."""

    observations: tuple[str, ...]  # one for each stretch
    mark: str  # where it goes on


def default_path() -> Path:
    """Where the index lies unless the user says otherwise: beside the feature cache."""
    return cache_home() / "index.sqlite"


class Index:
    """An open index. Used from one thread."""

    def __init__(self, path: Path, *, make: bool = True) -> None:
        """Open it; with `make`, begin one where there is none.

        Raises UsageError for a folder, another database or another version; EpError if it cannot be opened.
        """
        self.path = path
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; --index names a file")
        if not make and not path.is_file():
            raise UsageError(f"{path}: there is no index yet; `ep index FOLDER` makes one")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EpError(f"{path.parent}: cannot be made: {error.strerror}") from None
        with self.damage():
            self.base = sqlite3.connect(path, isolation_level=None, timeout=60)
            try:
                self._open()
            except BaseException:
                self.base.close()
                raise

    def _open(self) -> None:
        known = self._format()
        if known is None and self.base.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise UsageError(f"{self.path}: is a database of something else; name another --index")
        if known not in (None, str(FORMAT)):
            raise UsageError(f"{self.path}: was made by another version of ep; remove it, or name another --index")
        self.base.execute("PRAGMA journal_mode = WAL")  # the file remembers it, so only now that it is ours
        self.base.execute("PRAGMA synchronous = NORMAL")  # with WAL, a power cut costs the last files, never the index
        self.base.execute("PRAGMA cache_size = -65536")
        self.base.execute("PRAGMA mmap_size = 1073741824")
        if known is None:
            with self.all_or_nothing():
                if self._format() is None:  # another process may have been faster
                    for statement in _statements(_TABLES):
                        self.base.execute(statement)
                    self.base.execute("INSERT INTO about VALUES ('format', ?)", (str(FORMAT),))

    def _format(self) -> str | None:
        if not self.base.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
            return None
        found = self.base.execute("SELECT value FROM about WHERE key = 'format'").fetchone()
        return str(found[0]) if found else ""

    def close(self) -> None:
        self.base.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def damage(self) -> Iterator[None]:
        """What SQLite says, in words for the user."""
        try:
            yield
        except sqlite3.OperationalError as error:  # the disk, the rights, another process: the file itself may be sound
            if "fts5" in str(error):
                raise EpError("this Python's SQLite has no FTS5; use a Python that has it") from None
            hint = _HINTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "")
            raise EpError(f"{self.path}: the index cannot be used: {error}{hint}") from None
        except sqlite3.DatabaseError as error:
            raise EpError(
                f"{self.path}: is no index, or a damaged one ({error}); name another --index, or remove a damaged one"
            ) from None

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        self.base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.base.execute("ROLLBACK")
            raise
        self.base.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Hold the only right to write; False if another process has it."""
        lock = FileLock(self.path.with_name(f"{self.path.name}.lock"))
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                yield False
                return
            except OSError as error:
                raise EpError(f"{self.path.parent}: the index cannot be written there: {error.strerror}") from None
            yield True
        finally:
            lock.release()

    # --- What is known ------------------------------------------------------------------------------

    def files_within(self, places: Sequence[Path] = ()) -> list[Known]:
        """What is known of these files and folders; of everything without any. Those that have gone too."""
        condition, values = within(places)
        return [_known(row) for row in self.base.execute(f"SELECT {_KNOWN} FROM files WHERE {condition}", values)]

    def files_at(self, paths: Iterable[Path]) -> list[Known]:
        """What is known of these paths."""
        select = f"SELECT {_KNOWN} FROM files WHERE path = ?"
        rows = (self.base.execute(select, (os.fsencode(path),)).fetchone() for path in paths)
        return [_known(row) for row in rows if row]

    def of_content(self, digest: str) -> Known | None:
        """A file with this content, one that has gone rather than one that is there."""
        row = self.base.execute(
            f"SELECT {_KNOWN} FROM files WHERE content = ? AND failure IS NULL AND observed = ? ORDER BY gone IS NULL",
            (digest, OBSERVED),
        ).fetchone()
        return _known(row) if row else None

    def has_size(self, size: int) -> bool:
        """Whether any file that was looked at has so many bytes."""
        select = "SELECT 1 FROM files WHERE size = ? AND content IS NOT NULL"
        return self.base.execute(select, (size,)).fetchone() is not None

    def failures(self, folders: Sequence[Path] = ()) -> list[tuple[Path, str]]:
        """Files of which nothing is known, and why."""
        condition, values = within(folders)
        rows = self.base.execute(
            f"SELECT path, failure FROM files WHERE failure IS NOT NULL AND gone IS NULL AND {condition} ORDER BY path",
            values,
        )
        return [(Path(os.fsdecode(path)), why) for path, why in rows]

    def totals(self) -> Totals:
        """Counts, hours and bytes."""
        files, failed, gone, seconds = self.base.execute(
            "SELECT count(*), count(CASE WHEN gone IS NULL THEN failure END), count(gone), "
            "ifnull(sum(CASE WHEN gone IS NULL THEN duration_s END), 0) FROM files"
        ).fetchone()
        (begun,) = self.base.execute("SELECT count(*) FROM begun").fetchone()
        (lines,) = self.base.execute("SELECT count(*) FROM lines").fetchone()
        (sightings,) = self.base.execute("SELECT count(*) FROM sightings").fetchone()
        size = 0
        for ending in ("", "-wal"):
            with suppress(OSError):
                size += os.stat(f"{self.path}{ending}").st_size
        return Totals(files, begun, failed, gone, seconds / 3600, lines, sightings, size)

    def begun(self, path: Path, size: int, modified: int) -> Begun | None:
        """What is known of a file whose look was interrupted; None if there is none, or the file was changed since."""
        name = os.fsencode(path)
        row = self.base.execute(
            "SELECT mark FROM begun WHERE path = ? AND size = ? AND modified = ? AND observed = ?",
            (name, size, modified, OBSERVED),
        ).fetchone()
        if row is None:
            return None
        parts = self.base.execute("SELECT observations FROM begun_parts WHERE path = ? ORDER BY rowid", (name,))
        return Begun(tuple(part for (part,) in parts), row[0])

    # --- What changes -------------------------------------------------------------------------------

    def go_on(self, path: Path, size: int, modified: int, observations: str, mark: str) -> None:
        """Enter a further stretch of a file that is being looked at."""
        name = os.fsencode(path)
        with self.all_or_nothing():
            self.base.execute("INSERT INTO begun_parts VALUES (?, ?)", (name, observations))
            self.base.execute(
                "INSERT INTO begun VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET size = excluded.size, "
                "modified = excluded.modified, observed = excluded.observed, at = excluded.at, mark = excluded.mark",
                (name, size, modified, OBSERVED, time.time(), mark),
            )

    def drop_begun(self, path: Path) -> None:
        """The file is looked at from its beginning, or to its end."""
        self.base.execute("DELETE FROM begun WHERE path = ?", (os.fsencode(path),))

    def put(self, path: Path, observed: Observed) -> None:
        """Enter a file that was looked at, in place of what is known of it."""
        with self.all_or_nothing():
            self.drop_begun(path)
            file = self._file(path, observed.size, observed.modified, observed.content, observed.duration_s)
            self._drop_rows(file)
            for name, vector in zip(observed.names, observed.name_vectors, strict=True):
                self.base.execute(
                    "INSERT OR IGNORE INTO names (how, text, head, kinds, kind_heads, value) VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        *(name.how, name.text, f"{_head(name.text)} {_head(name.plural)}"),
                        *(", ".join(name.kinds), " ".join(map(_head, name.kinds)), small(vector)),
                    ),
                )
            self._put_lines(file, observed)
            self._put_sightings(file, observed)

    def _file(
        self, path: Path, size: int, modified: int, digest: str | None, duration_s: float, failure: str | None = None,
        exit_code: int = 0,
    ) -> int:  # fmt: skip
        row = (os.fsencode(path), size, modified, digest, duration_s, OBSERVED, failure, exit_code)
        found = self.base.execute(
            "INSERT INTO files (path, size, modified, content, duration_s, observed, failure, exit_code) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET size = excluded.size, "
            "modified = excluded.modified, content = excluded.content, duration_s = excluded.duration_s, "
            "observed = excluded.observed, failure = excluded.failure, exit_code = excluded.exit_code, gone = NULL "
            "RETURNING id",
            row,
        ).fetchone()
        return int(found[0])

    def _put_lines(self, file: int, observed: Observed) -> None:
        lines = observed.findings.lines
        if not lines:
            return
        (last,) = self.base.execute("SELECT ifnull(max(id), 0) FROM lines").fetchone()
        first = last + 1
        self.base.executemany(
            "INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (first + number, file, line.how, line.text, line.start_s, line.end_s, line.confidence, line.place)
                for number, line in enumerate(lines)
            ],
        )
        self.base.executemany(
            "INSERT INTO vectors VALUES (?, ?)",
            [(first + number, small(vector)) for number, vector in enumerate(observed.line_vectors)],
        )
        self.base.execute("INSERT INTO codes VALUES (?, ?, ?)", (file, first, bits(observed.line_vectors)))

    def _put_sightings(self, file: int, observed: Observed) -> None:
        best: dict[int, float] = {}
        rows = []
        for each in observed.findings.sightings:
            (name,) = self.base.execute(
                "SELECT id FROM names WHERE how = ? AND text = ?", (each.how, each.name)
            ).fetchone()
            best[name] = max(best.get(name, 0.0), each.confidence)
            rows.append((file, name, each.start_s, each.end_s, each.confidence, each.place, each.count))
        self.base.executemany("INSERT INTO sightings VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self.base.executemany("INSERT INTO holds VALUES (?, ?, ?)", [(name, file, sure) for name, sure in best.items()])

    def put_failure(self, path: Path, size: int, modified: int, failure: str, exit_code: int) -> None:
        """Enter a file that could not be looked at. It is tried again when it has changed, or when asked for."""
        with self.all_or_nothing():
            self.drop_begun(path)
            self._drop_rows(self._file(path, size, modified, None, 0.0, failure, exit_code))

    def touch(self, file: int, size: int, modified: int) -> None:
        """The file is as it was, with another time; or it is back."""
        self.base.execute("UPDATE files SET size = ?, modified = ?, gone = NULL WHERE id = ?", (size, modified, file))

    def move(self, file: int, path: Path, size: int, modified: int) -> None:
        """The file has another path now."""
        with self.all_or_nothing():
            before = self.base.execute("SELECT id FROM files WHERE path = ?", (os.fsencode(path),)).fetchone()
            if before and before[0] != file:
                self._forget(before[0])
            self.base.execute(
                "UPDATE files SET path = ?, size = ?, modified = ?, gone = NULL WHERE id = ?",
                (os.fsencode(path), size, modified, file),
            )

    def copy(self, file: int, path: Path, size: int, modified: int) -> None:
        """Another file has the same content."""
        with self.all_or_nothing():
            digest, duration_s = self.base.execute(
                "SELECT content, duration_s FROM files WHERE id = ?", (file,)
            ).fetchone()
            new = self._file(path, size, modified, digest, duration_s)
            self._drop_rows(new)
            lines = self.base.execute("SELECT first, bits FROM codes WHERE file = ?", (file,)).fetchone()
            if lines:
                (last,) = self.base.execute("SELECT max(id) FROM lines").fetchone()
                step = last + 1 - lines[0]
                self.base.execute(
                    "INSERT INTO vectors SELECT line + ?, value FROM vectors "
                    "WHERE line IN (SELECT id FROM lines WHERE file = ?)",
                    (step, file),
                )
                self.base.execute(
                    "INSERT INTO lines SELECT id + ?, ?, how, text, start_s, end_s, confidence, place FROM lines "
                    "WHERE file = ? ORDER BY id",
                    (step, new, file),
                )
                self.base.execute("INSERT INTO codes VALUES (?, ?, ?)", (new, lines[0] + step, lines[1]))
            self.base.execute(
                "INSERT INTO sightings SELECT ?, name, start_s, end_s, confidence, place, count FROM sightings "
                "WHERE file = ?",
                (new, file),
            )
            self.base.execute("INSERT INTO holds SELECT name, ?, confidence FROM holds WHERE file = ?", (new, file))

    def set_gone(self, files: Iterable[int]) -> None:
        """These are away now."""
        with self.all_or_nothing():
            self.base.executemany(
                "UPDATE files SET gone = ? WHERE id = ? AND gone IS NULL", [(time.time(), file) for file in files]
            )

    def forget_gone(self) -> None:
        """Drop what has been away, or was begun, for KEPT_S."""
        old = self.base.execute("SELECT id FROM files WHERE gone < ?", (time.time() - KEPT_S,)).fetchall()
        self.base.execute("DELETE FROM begun WHERE at < ?", (time.time() - KEPT_S,))
        if old:
            with self.all_or_nothing():
                for (file,) in old:
                    self._forget(file)

    def forget(self, places: Sequence[Path]) -> int:
        """Drop all that is known of files and folders; returns how many files that were."""
        condition, values = within(places)
        with self.all_or_nothing():
            paths = f"SELECT path FROM files WHERE {condition} UNION SELECT path FROM begun WHERE {condition}"
            (count,) = self.base.execute(f"SELECT count(*) FROM ({paths})", 2 * values).fetchone()
            self.base.execute(f"DELETE FROM begun WHERE {condition}", values)
            for (file,) in self.base.execute(f"SELECT id FROM files WHERE {condition}", values).fetchall():
                self._forget(file)
        return int(count)

    def _forget(self, file: int) -> None:
        self._drop_rows(file)
        self.base.execute("DELETE FROM files WHERE id = ?", (file,))

    def _drop_rows(self, file: int) -> None:
        self.base.execute("DELETE FROM vectors WHERE line IN (SELECT id FROM lines WHERE file = ?)", (file,))
        for table in ("codes", "lines", "sightings", "holds"):
            self.base.execute(f"DELETE FROM {table} WHERE file = ?", (file,))


def _head(name: str) -> str:
    return name.rpartition(" ")[2]


def within(places: Sequence[Path]) -> tuple[str, list[bytes]]:
    """An SQL condition on `path`, and its values: a path is one of the places or below it. No places: any."""
    if not places:
        return "1", []
    parts, values = [], []
    for place in places:
        start = os.fsencode(os.path.abspath(place))
        below = start.rstrip(os.fsencode(os.sep)) + os.fsencode(os.sep)
        parts.append("(path = ? OR (path >= ? AND path < ?))")
        values += [start, below, below[:-1] + bytes([below[-1] + 1])]
    return f"({' OR '.join(parts)})", values


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


# --- Vectors ------------------------------------------------------------------------------------------


def small(vector: np.ndarray) -> bytes:
    """(384,) float32 -> 384 bytes. Its length is lost: vectors here have length 1."""
    scale = 127 / max(float(np.abs(vector).max()), 1e-9)
    return np.round(vector * scale).astype(np.int8).tobytes()


def vectors(rows: Sequence[bytes]) -> np.ndarray:
    """What `small` made -> (N, 384) float32 of length 1."""
    if not rows:
        return np.zeros((0, 384), np.float32)
    found = np.frombuffer(b"".join(rows), np.int8).reshape(len(rows), -1).astype(np.float32)
    unit: np.ndarray = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    return unit


def bits(rows: np.ndarray) -> bytes:
    """(N, 384) float32 -> the sign of each number, 48 bytes a row: it tells which rows are worth a closer look."""
    return np.packbits(rows > 0, axis=1).tobytes()
