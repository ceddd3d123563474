"""Bringing the index up to date: what is new or changed is looked at, what was moved or copied is only entered again.

The ledger of `ep batch` is not used: it holds rows of answers for an output file, bound to one set of settings. Here
the index itself is the ledger: a file's rows and the note that it was looked at are one transaction, and in two
databases they could not be.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from epcli import content
from epcli.batch.jobs import Search, find
from epcli.batch.work import Failure
from epcli.find.index import OBSERVED, Index, Known
from epcli.find.observer import Observer

LIMIT_S = 900.0  # without progress


@dataclass
class Tally:
    """What a run did, in files."""

    indexed: int = 0
    failed: int = 0
    unchanged: int = 0
    moved: int = 0  # or copied, or only touched: known by its content
    gone: int = 0
    hours: float = 0.0  # of what was indexed
    seconds: float = 0.0


@dataclass
class Build:
    """Files on their way into an index that is held for writing."""

    index: Index
    places: Sequence[Path]
    search: Search = field(default_factory=Search)
    retry_failed: bool = False
    rebuild: bool = False
    limit_s: float = LIMIT_S
    on_file: Callable[[Path, str | None], None] = lambda path, failure: None  # after each, with why it failed
    on_progress: Callable[[Path, float, float], None] = lambda path, done_s, total_s: None
    refill: Callable[[], None] = lambda: None  # called when nothing waits; may `add`
    tally: Tally = field(default_factory=Tally)
    _queue: deque[Path] = field(default_factory=deque)

    def prepare(self) -> int:
        """Find what is to be done; returns how many media files there are.

        Raises MediaError as `find`, and for a place that is neither folder nor file, such as a pipe.
        """
        for place in self.places:
            if os.path.lexists(place) and not (place.is_dir() or place.is_file()):
                from epcli.media.probe import check_file  # imports PyAV

                check_file(place)  # says what it is
        found = find(self.places, self.search)
        self.index.forget_gone()
        self.notice_gone(found)
        self.add(found)
        return len(found)

    @property
    def waiting(self) -> int:
        """How many files are to be looked at."""
        return len(self._queue)

    def notice_gone(self, found: Sequence[Path]) -> None:
        """Mark the files of the places that are not there any more."""
        there = set(found)
        gone = [
            known.id
            for known in self.index.files_within(self.places)
            if not known.gone and known.path not in there and not os.path.lexists(known.path)
        ]
        if gone:
            self.index.set_gone(gone)
            self.tally.gone += len(gone)

    def add(self, files: Sequence[Path]) -> None:
        """Take note of files: those that have to be looked at wait for it."""
        known = {each.path: each for each in self.index.files_at(files)}
        waiting = set(self._queue)
        for path in files:
            if path not in waiting and not self._is_done(path, known.get(path)):
                self._queue.append(path)

    def _is_done(self, path: Path, known: Known | None) -> bool:
        """Whether a file has not to be looked at. If that is because its content is known, it is entered at once."""
        try:
            status = os.stat(path)
        except OSError:  # gone again, or a link to nothing
            return True
        if not stat.S_ISREG(status.st_mode):
            return True
        if self.rebuild:
            return False
        same = known is not None and (known.size, known.modified) == (status.st_size, status.st_mtime_ns)
        if known is not None and same and known.observed == OBSERVED and not (known.failed and self.retry_failed):
            if known.gone:
                self.index.touch(known.id, known.size, known.modified)
            self.tally.unchanged += 1
            return True
        entered = self._enter_by_content(path, known, status)
        self.tally.moved += entered
        return entered

    def _enter_by_content(self, path: Path, known: Known | None, status: os.stat_result) -> bool:
        """Enter a file whose very content is in the index; False if there is none."""
        if not self.index.has_size(status.st_size):
            return False  # without reading it
        size, modified = status.st_size, status.st_mtime_ns
        try:
            digest = content.sha256(path)
        except OSError:
            return False
        if known is not None and known.content == digest and known.observed == OBSERVED:
            self.index.touch(known.id, size, modified)
            return True
        donor = self.index.of_content(digest)
        if donor is None:
            return False
        if donor.gone or not os.path.lexists(donor.path):
            self.index.move(donor.id, path, size, modified)
        else:
            self.index.copy(donor.id, path, size, modified)
        return True

    def run(self, wait: Callable[[], bool] = lambda: False) -> None:
        """Look at everything that waits. When nothing is left `wait` may bring more (and return True), as --watch does.

        Raises EpError when nothing can be looked at.
        """
        began = time.monotonic()
        observer = Observer(self.limit_s)
        try:
            while True:
                while (path := self._take()) is not None:
                    self._look_at(path, observer)
                if not wait():
                    break
        finally:
            observer.close()
            self.tally.seconds = time.monotonic() - began

    def _take(self) -> Path | None:
        self.refill()
        return self._queue.popleft() if self._queue else None

    def _look_at(self, path: Path, observer: Observer) -> None:
        try:
            status = os.stat(path)
        except OSError:  # it has gone meanwhile
            return
        size, modified = status.st_size, status.st_mtime_ns
        begun = None if self.rebuild else self.index.begun(path, size, modified)
        if begun is None:
            self.index.drop_begun(path)
        result = observer.observe(
            path,
            begun,
            on_progress=partial(self.on_progress, path),
            on_stretch=partial(self.index.go_on, path, size, modified),
        )
        if isinstance(result, Failure):
            self.index.put_failure(path, size, modified, result.message, result.exit_code)
            self.tally.failed += 1
            self.on_file(path, result.message)
            return
        self.index.put(path, result)
        self.tally.indexed += 1
        self.tally.hours += result.duration_s / 3600
        self.on_file(path, None)
