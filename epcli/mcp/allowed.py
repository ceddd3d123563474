"""Which files a client may have: those in the folders that the user named, wherever links and ".." lead."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from epcli.errors import MediaError, UsageError


class Allowed:
    """The folders that a client may use."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises UsageError for one that is not there, or is no folder."""
        if not folders:
            raise UsageError("name the folders whose files may be used")
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(f"{folder}: there is no such folder")
        self.folders = tuple(Path(os.path.realpath(folder)) for folder in folders)

    def file(self, name: str) -> Path:
        """The file that a client means by an absolute path, or by a path below one of the folders. It has no links.

        Raises MediaError. Of what lies outside, the error tells nothing, not even whether it is there.
        """
        refused = MediaError(f"{name}: is in none of the folders that may be used")
        for real in self._places(name):
            if self.holds(real):
                if os.path.isfile(real):  # Path.is_file raises for a name that is too long
                    return real
                refused = MediaError(f"{name}: there is no such file")
        raise refused

    def holds(self, path: Path) -> bool:
        """Whether a path, after all links, lies in one of the folders."""
        real = Path(os.path.realpath(path))
        return any(real != folder and real.is_relative_to(folder) for folder in self.folders)

    def folder(self, name: str | None) -> tuple[Path, ...]:
        """The folder that a client means, or all of them. Raises MediaError for one outside, and for no folder."""
        if name is None:
            return self.folders
        for real in self._places(name):
            if os.path.isdir(real) and (real in self.folders or self.holds(real)):
                return (real,)
        raise MediaError(f"{name}: is no folder that may be used")

    def _places(self, name: str) -> Iterator[Path]:
        """Where a name may lead, after all links: below each folder, or to one place if it is absolute."""
        if not name or "\0" in name:
            raise MediaError("the path is empty or holds a zero byte")
        for place in [Path(name)] if os.path.isabs(name) else [folder / name for folder in self.folders]:
            with suppress(OSError, ValueError):  # a circle of links, half a character
                yield Path(os.path.realpath(place))
