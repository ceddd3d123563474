"""The ledger: one SQLite file beside the output, holding the state of every job and, in the same transaction, its row.

    pending ─▶ running ─▶ done
       ▲          │   └──▶ failed
       └──────────┘ the process ended while it ran

The ledger is the truth and the output file a copy of its rows (output.py): a job is done or failed exactly when its row
is committed here, so that no ending of the process, power loss included, loses a row or makes a second one. One process
has a ledger at a time: it holds a lock that the system frees whatever way the process ends.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from epcli.batch.jobs import FileJobs
from epcli.config import DECIDING, SETTINGS
from epcli.errors import EpError, UsageError
from epcli.questions.record import Question

FORMAT = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
  id INTEGER PRIMARY KEY,
  path BLOB NOT NULL UNIQUE,      -- absolute, as the system's bytes: a name need not be UTF-8
  stamp TEXT,                     -- size, times and inode when it was read; NULL until then
  content TEXT                    -- SHA-256 of it then; NULL if it could not be read
);
CREATE TABLE IF NOT EXISTS jobs (
  id INTEGER PRIMARY KEY,
  file INTEGER NOT NULL REFERENCES files,
  question TEXT NOT NULL,
  name TEXT NOT NULL,             -- the user's own id of the question, or empty
  state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done', 'failed')),
  begun INTEGER NOT NULL DEFAULT 0,  -- how often it was begun
  place INTEGER UNIQUE,           -- of its row among the rows; NULL while there is none
  row TEXT,                       -- JSON
  UNIQUE (file, question, name),
  CHECK ((row IS NULL) = (state IN ('pending', 'running')))
);
"""


@dataclass(frozen=True)
class Job:
    """One question about one file, as the ledger knows it."""

    id: int
    question: Question


@dataclass(frozen=True)
class Task:
    """What one worker is given at a time: a file, and the questions about it that have no answer yet."""

    media: Path
    jobs: tuple[Job, ...]


def path_of(out: Path) -> Path:
    """Where the ledger of an output lies: results.jsonl, .csv and .parquet share results.ledger.sqlite."""
    return out.with_name(f"{out.stem}.ledger.sqlite")


class Ledger:
    """An open ledger. Everything here happens on one thread of one process."""

    def __init__(self, out: Path, settings: Mapping[str, Any], *, wait: bool = False) -> None:
        """Open the output's ledger, or begin one.

        Args:
            out: the output file; its folder must be there.
            settings: all that decides an answer besides file and question, as JSON types.
            wait: if another process has the ledger, wait until it ends.

        Raises:
            UsageError: the ledger was begun with other settings, or there is an output without a ledger.
            EpError: another process has it, it is damaged, or the folder cannot be written.
        """
        self.out, self.path = out, path_of(out)
        self._lock = FileLock(self.path.with_suffix(".lock"))
        try:
            self._lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise EpError(f"{out}: is being written by {_owner(self.path)}; --wait waits until it has ended") from None
        except OSError as error:
            raise EpError(f"{out.parent}: the ledger cannot be written there: {error.strerror}") from None
        try:
            if out.exists() and not self.path.exists():
                raise UsageError(f"{out}: exists, and no ledger of `ep batch` lies beside it; name another --out")
            with self._damage():
                self._base = sqlite3.connect(self.path, isolation_level=None)
                self._base.execute("PRAGMA journal_mode = WAL")
                self._base.execute("PRAGMA synchronous = FULL")
                with self._all_or_nothing():
                    self._open(dict(settings))
        except BaseException:
            self._lock.release()
            raise

    def _open(self, settings: dict[str, Any]) -> None:
        for statement in _TABLES.split(";\n"):
            self._base.execute(statement)
        about = dict(self._base.execute("SELECT key, value FROM about"))
        if about and about.get("format") != str(FORMAT):
            raise UsageError(f"{self.path}: was made by another version of ep; name another --out")
        relevant = {key: value for key, value in settings.items() if key in DECIDING or key not in SETTINGS}
        if "settings" in about:
            before = json.loads(about["settings"])
            for key in sorted(before.keys() | relevant.keys()):
                if before.get(key) != relevant.get(key):
                    raise UsageError(
                        f"{self.out}: was begun with {key} {_say(before.get(key))}, and now it is "
                        f"{_say(relevant.get(key))}; rows of different settings do not mix: name another --out"
                    )
        owner = f"process {os.getpid()} on {socket.gethostname()}, begun {time.strftime('%Y-%m-%d %H:%M')}"
        for key, value in (("format", str(FORMAT)), ("settings", json.dumps(relevant)), ("owner", owner)):
            self._base.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))
        self._base.execute("UPDATE jobs SET state = 'pending' WHERE state = 'running'")

    def close(self) -> None:
        self._base.close()
        self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- What is to be done -----------------------------------------------------------------------

    def add(self, jobs: Iterable[FileJobs]) -> None:
        """Enter the jobs that are not known yet."""
        with self._all_or_nothing():
            for each in jobs:
                path = os.fsencode(each.media)
                self._base.execute("INSERT OR IGNORE INTO files (path) VALUES (?)", (path,))
                (file,) = self._base.execute("SELECT id FROM files WHERE path = ?", (path,)).fetchone()
                self._base.executemany(
                    "INSERT OR IGNORE INTO jobs (file, question, name) VALUES (?, ?, ?)",
                    [(file, question.text, question.key) for question in each.questions],
                )

    def tasks(self, jobs: Iterable[FileJobs]) -> Iterator[Task]:
        """Those of the jobs that are pending, by file; files that an earlier run was at when it ended come last."""
        later = []
        for each in jobs:
            known = self._base.execute(
                "SELECT question, name, jobs.id, begun FROM jobs JOIN files ON files.id = file "
                "WHERE path = ? AND state = 'pending'",
                (os.fsencode(each.media),),
            )
            pending = {(question, name): (job, begun) for question, name, job, begun in known}
            found = [(question, pending.get((question.text, question.key))) for question in each.questions]
            task = Task(each.media, tuple(Job(state[0], question) for question, state in found if state))
            if not task.jobs:
                continue
            if any(state and state[1] for _, state in found):
                later.append(task)
            else:
                yield task
        yield from later

    def seen(self, media: Path) -> tuple[tuple[int, ...], str | None] | None:
        """The stamp that a file had when it was read and the SHA-256 of its content; None if it was not read."""
        found = self._base.execute("SELECT stamp, content FROM files WHERE path = ?", (os.fsencode(media),)).fetchone()
        return (tuple(json.loads(found[0])), found[1]) if found and found[0] else None

    def set_seen(self, media: Path, stamp: tuple[int, ...], content: str | None) -> None:
        self._base.execute(
            "UPDATE files SET stamp = ?, content = ? WHERE path = ?", (json.dumps(stamp), content, os.fsencode(media))
        )

    def forget(self, media: Path, state: str | None = None) -> int:
        """Make a file's jobs pending again, dropping their rows; only those of a state, if named. Returns how many."""
        with self._all_or_nothing():
            return self._base.execute(
                "UPDATE jobs SET state = 'pending', place = NULL, row = NULL, begun = 0 "
                "WHERE file = (SELECT id FROM files WHERE path = ?) AND row IS NOT NULL AND state = ifnull(?, state)",
                (os.fsencode(media), state),
            ).rowcount

    # --- What was done ----------------------------------------------------------------------------

    def begin(self, task: Task) -> None:
        """A worker has been given the task."""
        with self._all_or_nothing():
            self._base.executemany(
                "UPDATE jobs SET state = 'running', begun = begun + 1 WHERE id = ? AND state = 'pending'",
                [(job.id,) for job in task.jobs],
            )

    def finish(
        self, media: Path, job: Job, row: Mapping[str, Any], stamp: tuple[int, ...] | None, content: str | None
    ) -> str | None:
        """Commit a job's row, whose "status" is done or failed; returns the row's line, None if it had one already.

        `stamp` and `content`: the file as it was when it was read.
        """
        line = to_line(row)
        with self._all_or_nothing():
            changed = self._base.execute(
                "UPDATE jobs SET state = ?, row = ?, place = (SELECT ifnull(max(place), 0) + 1 FROM jobs) "
                "WHERE id = ? AND row IS NULL",
                (row["status"], line, job.id),
            ).rowcount
            if changed and stamp is not None:
                self.set_seen(media, stamp, content)
        return line if changed else None

    def rows(self) -> Iterator[str]:
        """Every row's line (without its end), in the order in which they were committed."""
        for (line,) in self._base.execute("SELECT row FROM jobs WHERE row IS NOT NULL ORDER BY place"):
            yield line

    def count(self, jobs: Iterable[FileJobs]) -> dict[str, int]:
        """How many of the jobs are in each state."""
        found = dict.fromkeys(("pending", "running", "done", "failed"), 0)
        for each in jobs:
            wanted = {(question.text, question.key) for question in each.questions}
            for question, name, state in self._base.execute(
                "SELECT question, name, state FROM jobs WHERE file = (SELECT id FROM files WHERE path = ?)",
                (os.fsencode(each.media),),
            ):
                if (question, name) in wanted:
                    found[state] += 1
        return found

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """One transaction. KeyboardInterrupt included: nothing of it stays."""
        with self._damage():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise EpError(
                f"{self.path}: the ledger cannot be used ({error}); is the disk full? "
                "If it is damaged, move it and the output away and begin anew"
            ) from error


def states(out: Path) -> dict[tuple[bytes, str, str], str]:
    """The states of an output's jobs by path, question and id, for a look from outside; empty without a ledger."""
    if not path_of(out).exists():
        return {}
    try:
        base = sqlite3.connect(f"{path_of(out).absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        try:
            if not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone():
                return {}  # just being made
            found = base.execute("SELECT path, question, name, state FROM jobs JOIN files ON files.id = file")
            return {(path, question, name): state for path, question, name, state in found}
        finally:
            base.close()
    except sqlite3.Error as error:
        raise EpError(f"{path_of(out)}: the ledger cannot be read ({error})") from error


def to_line(row: Mapping[str, Any]) -> str:
    """A row as one line of JSON. A file name that is no UTF-8 stays readable: its bytes become escapes."""
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(row, allow_nan=False)
    return line


def _owner(path: Path) -> str:
    """Who has the ledger, as it wrote itself."""
    try:
        base = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
        try:
            (owner,) = base.execute("SELECT value FROM about WHERE key = 'owner'").fetchone()
        finally:
            base.close()
    except (sqlite3.Error, TypeError):
        return "another `ep batch`"
    return f"another `ep batch` ({owner})"


def _say(value: Any) -> str:
    return "not set" if value is None else str(value)
