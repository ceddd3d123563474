"""MUSIC-AVQA (GeWu-Lab/MUSIC-AVQA): avqa-test.json and <video_id>.mp4 in any folder below the set's.

Its quirks: the answer stands under "anser"; `type` and `templ_values` are lists written as JSON text; the question has
slots such as <Object> and <FL>, filled from `templ_values` in order; a question with `question_deleted` other than 0 is
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from epcli.questions.files import Finder, Row, listed
from epcli.questions.record import EXACT_PROMPT, Exact, Question
from epcli.questions.sets.base import Format


def load(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    if int(row.get("question_deleted") or 0):
        return
    values = iter(listed(row["templ_values"]))
    question = re.sub(r"<[^<>]*>", lambda slot: next(values, slot[0]), row["question_content"])
    problem = f"the slot {slot[0]} has no value" if (slot := re.search(r"<[^<>]*>", question)) else ""
    answer = str(row.get("anser") or row.get("answer") or "").strip()
    problem = problem or ("" if answer else "the set gives no answer")
    video = str(row["video_id"])
    yield Question(
        key=str(row.get("question_id", number - 1)),
        media=finder.find(f"{video}.*"),
        text=f"{question.strip()}\n{EXACT_PROMPT}",
        answer=answer,
        rule=Exact(answer),
        type=" ".join(listed(row["type"])),
        cluster=video,
        problem=problem,
    )


FORMATS = (
    Format(
        "music-avqa",
        "MUSIC-AVQA",
        ("avqa-test.json", "data/json_update/avqa-test.json", "data/json/avqa-test.json", "json/avqa-test.json"),
        frozenset({"video_id", "question_content", "templ_values", "type"}),
        load,
    ),
)
