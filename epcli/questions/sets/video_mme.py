"""Video-MME (lmms-lab/Video-MME): videomme/test-00000-of-00001.parquet, data/<videoID>.mp4 (or .MP4, .mkv)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from epcli.questions.files import Finder, Row, listed
from epcli.questions.record import Question
from epcli.questions.sets.base import Format, multiple_choice


def load(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    video = str(row["videoID"])
    media = finder.find(f"data/{video}.*", f"{video}.*")
    yield multiple_choice(str(row["question_id"]), media, row, listed(row["options"]), video)


FORMATS = (
    Format(
        "video-mme",
        "Video-MME",
        ("videomme/*.parquet", "*.parquet", "*.json"),
        frozenset({"videoID", "question_id", "question", "options", "answer", "task_type"}),
        load,
    ),
)
