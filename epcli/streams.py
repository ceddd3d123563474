"""Standard input, output and error, made safe before anything is said.

A stream that is closed (`>&-`) is opened on the null device, the wrong way round where its loss must be noticed.
Without that, the next file to be opened takes its number, and `print(file=sys.stderr)` writes to standard output.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from epcli.errors import EpError

CLOSED = "standard output is closed, so there is nowhere to put the answer"

_without: set[int] = set()  # numbers of the streams that were closed


class _Heedless(io.TextIOWrapper):
    """Standard error. That nobody can read it is no reason to stop: the answer goes elsewhere."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def prepare() -> None:
    """Open what is closed; set how letters are handled that a stream cannot hold."""
    for number, name, mode in ((0, "stdin", os.O_WRONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            _without.add(number)
            opened = os.open(os.devnull, mode)  # takes the lowest free number, which is the stream's own
            os.set_inheritable(opened, True)
            setattr(sys, name, open(opened, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    _reconfigure(sys.stdin, errors="replace")
    _reconfigure(sys.stdout, errors="backslashreplace")  # a file name that is not UTF-8 must not break the answer
    if type(sys.stderr) is io.TextIOWrapper:
        encoding = sys.stderr.encoding
        sys.stderr = _Heedless(sys.stderr.detach(), encoding=encoding, errors="backslashreplace", line_buffering=True)


def _reconfigure(stream: Any, errors: str) -> None:
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=errors)


def without_output() -> bool:
    """Whether standard output was closed from the beginning."""
    return 1 in _without


def check_output() -> None:
    """Raises EpError, before the work, if standard output is closed."""
    if without_output():
        raise EpError(CLOSED)


def drop_output() -> None:
    """Forget what standard output could not take, so that Python does not try once more when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_input() -> str:
    """All of standard input. Raises EpError if it is closed or cannot be read."""
    return "".join(input_lines())


def input_lines() -> Iterator[str]:
    """The lines of standard input, as they come. Raises EpError if it is closed or cannot be read."""
    try:
        yield from sys.stdin
    except OSError as error:
        why = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise EpError(f"standard input cannot be read: {why}") from None
