"""What is to be asked about which files. Nothing of a file but its name is read."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from epcli.errors import MediaError
from epcli.media.suffixes import MEDIA_SUFFIXES
from epcli.questions.record import Question


@dataclass(frozen=True)
class Search:
    """Which files of a folder are meant."""

    include: tuple[str, ...] = ()  # none: names with a suffix of media
    exclude: tuple[str, ...] = ()
    follow_links: bool = True

    def wants(self, relative: str) -> bool:
        """Whether a file, by its path below the folder, is meant."""
        if _matches(relative, self.exclude):
            return False
        if self.include:
            return _matches(relative, self.include)
        return os.path.splitext(relative)[1].lower() in MEDIA_SUFFIXES

    def files(self, folder: Path) -> Iterator[Path]:
        """The files meant below a folder, in the order of their names. A folder is entered once, however it is reached.

        Hidden files and folders are left out. A folder that may not be read is passed over.
        """
        entered: set[tuple[int, int]] = set()

        def walk(path: str, relative: str) -> Iterator[Path]:
            try:
                place = os.stat(path)
                with os.scandir(path) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                return
            if (place.st_dev, place.st_ino) in entered:
                return
            entered.add((place.st_dev, place.st_ino))
            for entry in entries:
                below = f"{relative}{entry.name}"
                if entry.name.startswith(".") or (entry.is_symlink() and not self.follow_links):
                    continue
                if os.path.isdir(entry.path):  # unlike entry.is_dir(), False for a link that leads to itself
                    if not _matches(below, self.exclude):
                        yield from walk(entry.path, f"{below}/")
                elif self.wants(below):
                    yield Path(entry.path)

        yield from walk(os.path.abspath(folder), "")


def _matches(relative: str, patterns: Iterable[str]) -> bool:
    """A pattern with a slash is about the path below the folder, one without about the name; `*` crosses slashes."""
    name = relative.rpartition("/")[2]
    return any(fnmatch(relative if "/" in each else name, each.rstrip("/")) for each in patterns)


def find(places: Sequence[Path], search: Search) -> list[Path]:
    """All files meant, as absolute paths, each once. A file named itself is always meant.

    Raises MediaError for a place that is not there, and for a folder that may not be read.
    """
    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            if not os.access(place, os.R_OK | os.X_OK):
                raise MediaError(f"{place}: permission denied; make the folder readable for you")
            found.update(dict.fromkeys(search.files(place)))
        elif place.exists() or place.is_symlink():
            found[Path(os.path.abspath(place))] = None
        else:
            raise MediaError(f"{place}: there is no such file or folder")
    return list(found)


@dataclass(frozen=True)
class FileJobs:
    """A file and all that is to be asked about it."""

    media: Path  # absolute
    questions: tuple[Question, ...]


def plan_jobs(
    files: Sequence[Path],
    questions: Sequence[Question],
    *,
    limit: int | None = None,
    shuffle: int | None = None,
) -> list[FileJobs]:
    """Every file with its questions, in order.

    Args:
        files: those found; a question without media is about each of them.
        limit: only the first so many files.
        shuffle: order the files by chance, from this seed, before `limit`.
    """
    general = [each for each in questions if each.media is None]
    asked: dict[Path, dict[tuple[str, str], Question]] = {}
    if general:
        for media in files:
            asked[media] = {(each.text, each.key): each for each in general}
    for each in questions:
        if each.media is not None:
            asked.setdefault(Path(os.path.abspath(each.media)), {})[each.text, each.key] = each
    jobs = [FileJobs(media, tuple(several.values())) for media, several in asked.items()]
    if shuffle is not None:
        random.Random(shuffle).shuffle(jobs)
    return jobs[:limit]
