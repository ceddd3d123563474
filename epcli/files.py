"""Output files: refused before the work if they cannot be written, and written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from epcli.errors import EpError, UsageError


def check_output(path: Path, flag: str, *, suffix: str = "", source: Path | None = None) -> None:
    """Raises UsageError, naming the flag, if a file cannot be written there or would replace `source`."""
    if path.is_dir():
        raise UsageError(f"{flag} {path}: is a folder; name a file")
    if suffix and path.suffix.lower() != suffix:
        raise UsageError(f"{flag} {path}: is written as {suffix[1:].upper()}; give it the ending {suffix}")
    if source is not None and path.exists() and path.samefile(source):
        raise UsageError(f"{flag} {path}: is the file to be looked at; name another")
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"{flag} {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{flag} {path}: the folder {folder} cannot be written to")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the name of `path` at the end, or is removed on any error.

    Raises EpError for what the system says, such as a full disk.
    """
    partial = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as problem:
        raise EpError(f"{path}: cannot be written: {problem.strerror or problem}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
