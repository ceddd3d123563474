"""Output files: refused before the work if they cannot be written, and written whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from epcli.errors import EpError, UsageError


def check_output(path: Path, flag: str, *, suffix: str = "", source: Path | None = None) -> None:
    """Raises UsageError, naming the flag, if a file cannot be written there or would replace `source`."""
    try:
        _check_output(path, flag, suffix, source)
    except OSError as problem:  # a name too long, a circle of links
        raise UsageError(f"{flag} {path}: cannot be written: {problem.strerror}") from None


def _check_output(path: Path, flag: str, suffix: str, source: Path | None) -> None:
    if path.is_dir():
        raise UsageError(f"{flag} {path}: is a folder; name a file")
    if path.exists() and not path.is_file():  # it would be replaced: never a device or a pipe
        raise UsageError(f"{flag} {path}: is no ordinary file; name another")
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

    The name is this process's own, so that two that write one file do not write into each other's; what a killed one
    left is removed. Where `path` is a link, the file it leads to is written. Raises EpError for what the system says,
    as of a full disk.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}.part{target.suffix}")
    _remove_leftovers(target)
    try:
        yield partial
        os.replace(partial, target)
    except OSError as problem:
        raise EpError(f"{path}: cannot be written: {problem.strerror or problem}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of `target` whose process is gone."""
    import psutil  # not at start-up

    owned = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.part{re.escape(target.suffix)}")
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            match = owned.fullmatch(entry.name)
            if match and not psutil.pid_exists(int(match[1])):
                os.unlink(entry.path)
