"""AVUT (tsinghua-ee/AVUTBenchmark): AV_Human_data.json; media at `video_path`, "data/<id>.mp4", or beside the JSON.

Options stand in option_A to option_D. Where the right one is empty (QA 455) the question counts as failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from epcli.questions.files import Finder, Row
from epcli.questions.record import LETTERS, Question
from epcli.questions.sets.base import Format, multiple_choice


def load(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    options = [str(row[f"option_{x}"]) for x in LETTERS[:6] if row.get(f"option_{x}") is not None]
    place = str(row["video_path"])
    yield multiple_choice(str(row["QA_id"]), finder.find(place, Path(place).name), row, options, place)


FORMATS = (
    Format(
        "avut",
        "AVUT",
        ("AV_Human_data.json", "AV_Human*.json", "AV_Gemini*.json"),
        frozenset({"QA_id", "question", "option_A", "answer", "video_path", "task_type"}),
        load,
    ),
)
