"""AVQA: {"video_name", "question_text", "multi_choice": [...], "answer": index, "question_type"?}.

The videos lie anywhere below the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from epcli.questions.files import Finder, Row, text_of
from epcli.questions.record import LETTERS, Choice, Question
from epcli.questions.sets.base import Format


def load(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    options = [str(option) for option in row["multi_choice"]]
    right = row["answer"]
    if not isinstance(right, int) or not 0 <= right < len(options) <= len(LETTERS):
        raise ValueError(f"the answer {right!r} is not the place of one of {len(options)} options")
    listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    name = text_of(row, "video_name")
    place = name if Path(name).suffix in (".mp4", ".mkv", ".webm") else f"{name}.*"
    yield Question(
        "\n".join([text_of(row, "question_text"), *listed]),
        finder.find(place),
        answer=listed[right],
        rule=Choice(tuple(options), right),
        type=str(row.get("question_type") or "avqa"),
        cluster=name,
    )


_FIELDS = frozenset({"video_name", "question_text", "multi_choice", "answer"})
FORMATS = (Format("avqa", "AVQA", ("train_qa.json", "val_qa.json"), _FIELDS, load),)
