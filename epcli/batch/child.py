"""A process of its own for work that may hang, crash or run out of memory, and may therefore be killed at any time.

It answers one message after the other. What it started (ffmpeg) ends with it, and it ends with its parent, whatever way
that ended.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path
from typing import Any


class Overdue(Exception):
    """No answer came in time."""


class Died(Exception):
    """The process has ended by itself, or something ended it."""

    def __init__(self, code: int | None) -> None:
        self.killed = code == -signal.SIGKILL if hasattr(signal, "SIGKILL") else False
        how = f"exit code {code}"
        if code is not None and code < 0:
            with suppress(ValueError):
                how = signal.Signals(-code).name
        super().__init__(f"{how}; out of memory?" if self.killed else how)


class Child:
    """One such process. `body(connection, *arguments)` is its work; it returns when the connection ends."""

    def __init__(self, body: Callable[..., None], folder: Path, *arguments: Any) -> None:
        """Start it. `folder` is removed by the child if this process ends without doing so."""
        context = multiprocessing.get_context("spawn")  # no copy of this process's threads and locks
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_live, args=(body, theirs, folder, arguments), daemon=True)
        with _no_main():
            self.process.start()
        theirs.close()

    def send(self, message: Any) -> None:
        """Give it a message. If it has died, `receive` tells."""
        with suppress(OSError):
            self._connection.send(message)

    def receive(self, deadline: float | None = None) -> Any:
        """Its answer. Raises Overdue when `time.monotonic()` reaches the deadline, or Died."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not connection.wait([self._connection, self.process.sentinel], left):
            raise Overdue
        with suppress(EOFError, OSError):
            if self._connection.poll():
                return self._connection.recv()
        self.process.join(10.0)
        raise Died(self.process.exitcode)

    def kill(self) -> None:
        """End it now, and everything that it started."""
        import psutil

        below = []
        with suppress(psutil.Error):
            below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for each in below:
            with suppress(psutil.Error):
                each.kill()
        self.process.join()
        self._connection.close()
        self.process.close()


@contextmanager
def _no_main() -> Iterator[None]:
    """Hide the program: a spawned process would import it, whatever it is, Ray's included, and even run a careless one.

    Only `body` and its arguments have to be found there, and they are of this package.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _live(body: Callable[..., None], pipe: Any, folder: Path, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear
    if hasattr(os, "setsid"):
        os.setsid()  # so that the terminal does not interrupt ffmpeg either
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    with suppress(EOFError, OSError):
        body(pipe, *arguments)


def _end_with_parent(folder: Path) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
