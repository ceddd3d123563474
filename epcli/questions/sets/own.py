"""Our own format: {"question"}, and as known "media", "sound", "id", "answer", "accept", "reject", "type", "needs" and
"evidence".

JSONL, JSON, CSV or TSV with these names, or a text file with a question a line. `media` (and `sound`, where a still
picture and its sound are separate files) are relative to the file. `ep batch` needs the question alone, `ep train` also
`media` and `answer`, `ep eval` also `media` and `accept` or `answer`. `evidence` is a list of
["video" or "audio", from_s, to_s].
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from epcli.errors import UsageError
from epcli.questions.files import Finder, Row
from epcli.questions.record import Evidence, Exact, Pattern, Question, Rule
from epcli.questions.sets.base import Format
from epcli.records import Modality
from epcli.text import as_question

SENSES = {"video": Modality.VIDEO, "audio": Modality.AUDIO}


def load(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    text = row.get("question")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("it has no question")
    try:
        text = as_question(text)
    except UsageError as error:
        raise ValueError(str(error)) from None
    media, sound = (_path(row, key, finder, annotation) for key in ("media", "sound"))
    answer = row.get("answer")
    if answer is not None and not isinstance(answer, str | int | float):
        raise ValueError("answer is not a text")
    answer = "" if answer is None else str(answer).strip()
    name = row.get("id")
    yield Question(
        text,
        media,
        "" if name is None else str(name),
        sound,
        answer,
        _rule(row, answer),
        type=str(row.get("type") or "all"),
        cluster=str(row.get("media") or ""),
        needs=str(row.get("needs") or ""),
        evidence=_evidence(row),
    )


def _path(row: Row, key: str, finder: Finder, annotation: Path) -> Path | None:
    """A file, relative to the questions' own folder. Only in a folder that the user named is it looked for by name."""
    place = row.get(key)
    if place is None or place == "":
        return None
    if not isinstance(place, str):
        raise ValueError(f"{key} is not a path")
    if b"\0" in os.fsencode(place):  # ValueError for half a character
        raise ValueError(f"{key} holds a zero byte")
    place = str(Path(os.path.expanduser(place)))
    return finder.find(place) if finder.given else annotation.parent / place


def _rule(row: Row, answer: str) -> Rule | None:
    """`accept` if it is there; else the answer itself, if that is known."""
    accept, reject = row.get("accept"), row.get("reject") or ""
    for name, pattern in (("accept", accept), ("reject", reject)):
        try:
            re.compile(pattern or "")
        except (re.error, TypeError) as error:
            raise ValueError(f"{name} is no regular expression ({error})") from None
    if accept is not None:
        return Pattern(accept, reject, answer)
    return Exact(answer) if answer else None


def _evidence(row: Row) -> tuple[Evidence, ...] | None:
    if row.get("evidence") is None:
        return None
    try:
        return tuple(Evidence(SENSES[kind], float(start), float(end)) for kind, start, end in row["evidence"])
    except (KeyError, TypeError, ValueError):
        raise ValueError('evidence is not a list of ["video" or "audio", from_s, to_s]') from None


def name_of(annotation: Path) -> str | None:
    """Name and version of a generated benchmark, told in benchmark.json beside its questions.jsonl."""
    try:
        about = json.loads((annotation.parent / "benchmark.json").read_text(encoding="utf-8"))
        return f"{about['name']} v{about['version']}" if annotation.name == "questions.jsonl" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


_ABOUT = ("jsonl", "our own format", ("questions.jsonl",))
FORMATS = (
    Format(*_ABOUT, frozenset({"media", "question"}), load, order=0),
    Format(*_ABOUT, frozenset({"question"}), load, order=2),  # about any file
)
