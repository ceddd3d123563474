"""What is to be asked about which files: folders searched, questions read. Nothing of a file but its name is read."""

from __future__ import annotations

import csv
import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from epcli.errors import MediaError, UsageError

# What is taken for media in a folder unless --include says otherwise. Whether it is, its content decides later.
_FILMS = "mp4 m4v mov mkv webm avi ts mts m2ts mpg mpeg vob ogv flv wmv asf mxf ivf 3gp"
_SOUNDS = "wav mp3 m4a aac flac ogg oga opus aif aiff caf amr au ac3 eac3 wv wma"
_PICTURES = "png jpg jpeg webp bmp tif tiff gif apng"
MEDIA_SUFFIXES = frozenset(f".{each}" for kind in (_FILMS, _SOUNDS, _PICTURES) for each in kind.split())


@dataclass(frozen=True)
class Question:
    """One question, about one file or about all."""

    text: str
    media: str | None = None  # as written in the questions' file; None: about every file found
    id: str = ""  # the user's own name for it, carried into the row


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
                if entry.is_dir():
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

    Raises MediaError for a place that is not there.
    """
    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            found.update(dict.fromkeys(search.files(place)))
        elif place.exists() or place.is_symlink():
            found[Path(os.path.abspath(place))] = None
        else:
            raise MediaError(f"{place}: there is no such file or folder")
    return list(found)


def read_questions(path: Path) -> list[Question]:
    """Questions of a file: JSON Lines or CSV with "question" and, if they differ by file, "media"; else a line each.

    Raises UsageError naming the line that is no question.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{path}: the questions cannot be read: {reason}") from None
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        questions = list(_from_json_lines(path, text))
    elif kind in (".csv", ".tsv"):
        questions = list(_from_table(path, text, "\t" if kind == ".tsv" else ","))
    elif kind == ".json":
        raise UsageError(f"{path}: give the questions as JSON Lines (.jsonl), an object a line, or as text or CSV")
    else:
        lines = (line.strip() for line in text.splitlines())
        questions = [Question(line) for line in lines if line and not line.startswith("#")]
    if not questions:
        raise UsageError(f"{path}: there are no questions in it")
    return questions


def _from_json_lines(path: Path, text: str) -> Iterator[Question]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UsageError(f'{where} is not an object; write {{"media": …, "question": …}}')
        yield _question(where, row.get("question"), row.get("media"), row.get("id"))


def _from_table(path: Path, text: str, delimiter: str) -> Iterator[Question]:
    table = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)
    if "question" not in (table.fieldnames or ()):
        raise UsageError(f"{path}: the first line must name the columns, and one of them is question")
    for row in table:
        yield _question(f"{path}: line {table.line_num}", row.get("question"), row.get("media"), row.get("id"))


def _question(where: str, text: object, media: object, name: object) -> Question:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{where} has no question")
    if media is not None and not isinstance(media, str):
        raise UsageError(f"{where}: media is not a path")
    return Question(text.strip(), media or None, "" if name is None else str(name))


@dataclass(frozen=True)
class FileJobs:
    """A file and all that is to be asked about it."""

    media: Path  # absolute
    questions: tuple[Question, ...]


def plan_jobs(
    files: Sequence[Path],
    questions: Sequence[Question],
    base: Path,
    *,
    limit: int | None = None,
    shuffle: int | None = None,
) -> list[FileJobs]:
    """Every file with its questions, in order.

    Args:
        files: those found; a question without media is about each of them.
        questions: media of a question is relative to `base`.
        limit: only the first so many files.
        shuffle: order the files by chance, from this seed, before `limit`.
    """
    general = [each for each in questions if each.media is None]
    asked: dict[Path, dict[tuple[str, str], Question]] = {}
    if general:
        for media in files:
            asked[media] = {(each.text, each.id): each for each in general}
    for each in questions:
        if each.media is not None:
            media = Path(os.path.abspath(base / Path(each.media).expanduser()))
            asked.setdefault(media, {})[each.text, each.id] = each
    jobs = [FileJobs(media, tuple(several.values())) for media, several in asked.items()]
    if shuffle is not None:
        random.Random(shuffle).shuffle(jobs)
    return jobs[:limit]
