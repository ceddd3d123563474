"""Daily-Omni (liarliar/Daily-Omni): qa.json, Videos/<id>/<id>_video.mp4. Options come as "A. …"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from epcli.questions.files import Finder, Row, listed
from epcli.questions.record import Question, choice
from epcli.questions.sets.base import Format


def load(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    video = str(row["video_id"])
    media = finder.find(f"Videos/{video}/{video}_video.mp4")
    yield choice(
        str(number - 1),
        media,
        row["Question"],
        listed(row["Choice"]),
        str(row["Answer"]),
        type=str(row["Type"]),
        cluster=video,
    )


FORMATS = (
    Format(
        "daily-omni", "Daily-Omni", ("qa.json",), frozenset({"Question", "Choice", "Answer", "video_id", "Type"}), load
    ),
)
