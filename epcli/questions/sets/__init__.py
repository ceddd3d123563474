"""Question sets in their published layouts, a loader each, found by what their files hold.

read_set(path)   a JSONL of ours, or a local copy of WorldSense, Daily-Omni, OmniBench, MUSIC-AVQA, AVUT, Video-MME
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epcli.errors import UsageError
from epcli.questions.items import Item
from epcli.questions.sets import avut, daily_omni, music_avqa, omnibench, own, video_mme, worldsense
from epcli.questions.sets.base import Format
from epcli.questions.sets.files import Finder, Row, read_rows

FORMATS: tuple[Format, ...] = (
    own.FORMAT,
    worldsense.FORMAT,
    worldsense.FLAT,
    daily_omni.FORMAT,
    omnibench.FORMAT,
    omnibench.EMBEDDED,
    music_avqa.FORMAT,
    avut.FORMAT,
    video_mme.FORMAT,
)
NAMES = tuple(dict.fromkeys(format.name for format in FORMATS))


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one set, in its order."""

    name: str  # of the file or folder
    title: str  # of the format
    items: tuple[Item, ...]


def read_set(path: Path, format: str | None = None, media: Path | None = None) -> QuestionSet:
    """Read a set.

    Args:
        path: its annotation file, or the folder in which it was published.
        format: one of NAMES; None finds out.
        media: the folder with its media, if they are elsewhere.

    Raises:
        UsageError: there is no such file, or no set of a known layout, or a question that cannot be used.
    """
    if format is not None and format not in NAMES:
        raise UsageError(f"--format {format}: no such format; there are: {', '.join(NAMES)}")
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder; give a JSONL file of questions, or a set's folder")
    wanted = [each for each in FORMATS if format in (None, each.name)]
    annotation, rows, found = _annotation(path, wanted)
    roots = [annotation.parent, annotation.parent.parent, annotation.parent.parent.parent]
    roots = [path, *roots] if path.is_dir() else roots
    try:
        items = tuple(found.load(rows, Finder([media, *roots] if media else roots), annotation))
    except (KeyError, TypeError, ValueError, SyntaxError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{annotation}: a question is not as {found.title} publishes it: {what}") from None
    if not items:
        raise UsageError(f"{annotation}: no questions in it")
    keys = [item.key for item in items]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UsageError(f"{annotation}: question {twice} is there twice")
    name = annotation.name if path.is_file() else path.resolve().name
    return QuestionSet(own.name_of(annotation) or name, found.title, items)


def _annotation(path: Path, formats: list[Format]) -> tuple[Path, list[Row], Format]:
    """The set's annotation file, its rows and their format."""
    seen: dict[Path, list[Row]] = {}
    for each in formats:
        candidates = [path] if path.is_file() else [f for glob in each.files for f in sorted(path.glob(glob))]
        for file in candidates:
            if file not in seen:
                seen[file] = read_rows(file)
            if each.fits(seen[file]):
                return file, seen[file], each
    if path.is_file() and not seen[path]:
        raise UsageError(f"{path.name}: no questions in it")
    names = " or ".join(dict.fromkeys(each.title for each in formats)) if len(formats) < 3 else "a known set"
    if path.is_file():
        needs = "; ".join(", ".join(sorted(each.fields - {"_id"})) for each in formats[:2])
        raise UsageError(f"{path.name}: is not {names}; a question needs {needs} (other layouts: docs/evals.md)")
    files = ", ".join(dict.fromkeys(each.files[0] for each in formats))
    raise UsageError(f"{path}: holds no questions of {names}; looked for {files}")
