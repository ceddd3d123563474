"""Files as they arrive. The folder is looked through every second or two: that works on network shares and in
containers too, where the system's own notices of changes do not arrive.

A file is complete when its size and its time have stayed the same for a while. One that was last written before that
while when it is first seen has been moved here whole, and is taken at once. A writer that pauses longer is no disaster:
the file has then changed, its rows are dropped, and it is asked about again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

Job = TypeVar("Job")

EVERY_S = 1.0
SETTLE_S = 5.0


class Fed(Protocol[Job]):
    """What takes files as they arrive, as a batch does."""

    @property
    def waiting(self) -> int:
        """How many files it has not begun with."""
        ...

    def add(self, jobs: list[Job], /) -> None:
        """Take further ones."""
        ...


class Watch(Generic[Job]):
    """Feeds a batch."""

    def __init__(
        self,
        batch: Fed[Job],
        find: Callable[[], Iterable[Path]],
        plan: Callable[[list[Path]], list[Job]],
        settle_s: float = SETTLE_S,
        every_s: float = EVERY_S,
    ) -> None:
        """`find` gives the files that are there, `plan` the jobs of some of them."""
        self._batch, self._find, self._plan = batch, find, plan
        self._settle_s, self._every_s = settle_s, every_s
        self._given: dict[Path, tuple[int, int]] = {}  # size and time when it was given to the batch
        self._growing: dict[Path, tuple[tuple[int, int], float]] = {}  # and when that was first seen
        self._looked = float("-inf")

    def look(self) -> None:
        """Give the batch what is complete and new or changed; not more often than every second."""
        if time.monotonic() - self._looked < self._every_s:
            return
        self._looked = time.monotonic()
        complete = [media for media in self._find() if self._is_complete(media)]
        if complete:
            self._batch.add(self._plan(complete))

    def wait(self) -> bool:
        """Return when there is something to do. KeyboardInterrupt ends it."""
        while True:
            self.look()
            if self._batch.waiting:
                return True
            time.sleep(self._every_s)

    def _is_complete(self, media: Path) -> bool:
        try:
            status = os.stat(media)
        except OSError:  # gone again, or a link to nothing
            return False
        state, now = (status.st_size, status.st_mtime_ns), time.monotonic()
        if self._given.get(media) == state:
            return False
        before, since = self._growing.get(media, (None, now))
        moved_here = before is None and media not in self._given and time.time() - status.st_mtime > self._settle_s
        if not moved_here and (before != state or now - since < self._settle_s):
            if before != state:
                self._growing[media] = (state, now)
            return False
        self._growing.pop(media, None)
        self._given[media] = state
        return True
