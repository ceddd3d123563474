"""Our own sets: JSONL of {"media", "question", "accept", "reject"?, "type"?, "answer"?, "sound"?, "needs"?,
"evidence"?}.

`media` (and `sound`, where a still picture and its sound are separate files) are relative to the JSONL file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from epcli.errors import UsageError
from epcli.questions.items import Item, Pattern
from epcli.questions.sets.base import Format
from epcli.questions.sets.files import Finder, Row


def load(rows: list[Row], finder: Finder, annotation: Path) -> Iterator[Item]:
    for number, row in enumerate(rows, 1):
        try:
            for pattern in (row["accept"], row.get("reject") or ""):
                re.compile(pattern)
            media, sound = annotation.parent / row["media"], row.get("sound")
            rule = Pattern(row["accept"], row.get("reject") or "", row.get("answer") or "")
            evidence = tuple((str(kind), float(a), float(b)) for kind, a, b in row.get("evidence") or ())
            question = row["question"]
            if not isinstance(question, str) or not question.strip():
                raise ValueError("the question is empty")
        except (ValueError, KeyError, TypeError, re.error) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"{annotation.name}: question {number} cannot be used: {what}; it needs media, question and accept"
            ) from None
        yield Item(
            key=str(number),
            media=media,
            question=question,
            rule=rule,
            type=str(row.get("type") or "all"),
            cluster=str(row["media"]),
            sound=annotation.parent / sound if sound else None,
            needs=str(row.get("needs") or ""),
            evidence=evidence,
        )


def name_of(annotation: Path) -> str | None:
    """Name and version of a generated benchmark, told in benchmark.json beside its questions.jsonl."""
    try:
        about = json.loads((annotation.parent / "benchmark.json").read_text(encoding="utf-8"))
        return f"{about['name']} v{about['version']}" if annotation.name == "questions.jsonl" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


FORMAT = Format("jsonl", "JSONL of our own", ("questions.jsonl",), frozenset({"media", "question"}), load)
