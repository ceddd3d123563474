"""Question files, a module each format, found by what their rows hold.

read_questions(path)   whatever the questions are for
read_set(path)         questions that answers can be judged by
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from epcli.errors import UsageError
from epcli.questions.files import Finder, Row, read_rows
from epcli.questions.record import Question
from epcli.questions.sets.base import Format


@cache
def formats() -> tuple[Format, ...]:
    """Every format of this folder's modules, in the order in which they are tried."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    found = [each for module in modules for each in getattr(module, "FORMATS", ())]
    return tuple(sorted(found, key=lambda each: each.order))


def names() -> tuple[str, ...]:
    """What --format takes."""
    return tuple(sorted({each.name for each in formats()}))


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one file or folder, in its order."""

    name: str  # of the file or folder
    title: str  # of the format
    questions: tuple[Question, ...]


def read_questions(
    path: Path, format: str | None = None, media: Path | None = None, *, search: bool = True
) -> QuestionSet:
    """Read questions.

    Args:
        path: their file, or the folder in which a set was published.
        format: one of `names`; None finds out.
        media: the folder with their media, if they are elsewhere.
        search: a file that is not where its row says is looked for by name below the first folder.

    Raises:
        UsageError: there is no such file, or no questions of a known layout, or a row that cannot be used.
    """
    if format is not None and format not in names():
        raise UsageError(f"--format {format}: no such format; there are: {', '.join(names())}")
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder; give a file of questions, or a set's folder")
    wanted = [each for each in formats() if format in (None, each.name)]
    annotation, rows, found = _annotation(path, wanted)
    roots = [annotation.parent, annotation.parent.parent, annotation.parent.parent.parent]
    roots = [path, *roots] if path.is_dir() else roots
    finder = Finder([media, *roots] if media else roots, given=media is not None, search=search)
    questions: list[Question] = []
    for number, row in enumerate(rows, 1):
        try:
            questions += found.load(row, number, finder, annotation)
        except (KeyError, TypeError, ValueError, IndexError, SyntaxError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"{annotation.name}: {row.place}: {what}; docs/questions.md shows the layouts that are read"
            ) from None
    if not questions:
        raise UsageError(f"{annotation}: there are no questions in it")
    from epcli.questions.sets import own

    name = annotation.name if path.is_file() else path.resolve().name
    return QuestionSet(own.name_of(annotation) or name, found.title, tuple(questions))


def read_set(path: Path, format: str | None = None, media: Path | None = None) -> QuestionSet:
    """`read_questions`, for judging answers: each names a file and has a rule and a key of its own.

    Raises UsageError as above, and for a question whose answers cannot be judged.
    """
    found = read_questions(path, format, media)
    keyed = tuple(
        replace(each, key=each.key or str(number), cluster=each.cluster or str(each.media))
        for number, each in enumerate(found.questions, 1)
    )
    for each in keyed:
        lacks = "names no media" if each.media is None else "has neither accept nor answer" if each.rule is None else ""
        if lacks:
            raise UsageError(f"{path.name}: question {each.key} cannot be scored: it {lacks}")
    if twice := [key for key, count in Counter(each.key for each in keyed).items() if count > 1]:
        raise UsageError(f"{path}: question {twice[0]} is there twice")
    return replace(found, questions=keyed)


def _annotation(path: Path, wanted: list[Format]) -> tuple[Path, list[Row], Format]:
    """The questions' file, its rows and their format."""
    seen: dict[Path, list[Row]] = {}
    for each in wanted:
        candidates = [path] if path.is_file() else [f for glob in each.files for f in sorted(path.glob(glob))]
        for file in candidates:
            if file not in seen:
                seen[file] = read_rows(file)
            if each.fits(seen[file]):
                return file, seen[file], each
    if path.is_file() and not seen[path]:
        raise UsageError(f"{path.name}: there are no questions in it")
    titles = " or ".join(dict.fromkeys(each.title for each in wanted)) if len(wanted) < 3 else "a known set"
    if path.is_file():
        needs = ", ".join(sorted(wanted[-1].fields - {"_id"}))
        raise UsageError(
            f"{path.name}: {seen[path][0].place}: is not of {titles}; a question needs {needs} "
            "(other layouts: docs/questions.md)"
        )
    files = ", ".join(dict.fromkeys(each.files[0] for each in wanted))
    raise UsageError(f"{path}: holds no questions of {titles}; looked for {files}")
