"""Daily-Omni (liarliar/Daily-Omni): qa.json, Videos/<id>/<id>_video.mp4. Options come as "A. …"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from epcli.questions.items import Item, choice_item
from epcli.questions.sets.base import Format
from epcli.questions.sets.files import Finder, Row, listed


def load(rows: list[Row], finder: Finder, annotation: Path) -> Iterator[Item]:
    for number, row in enumerate(rows):
        video = str(row["video_id"])
        media = finder.find(f"Videos/{video}/{video}_video.mp4")
        yield choice_item(
            str(number),
            media,
            row["Question"],
            listed(row["Choice"]),
            str(row["Answer"]),
            type=str(row["Type"]),
            cluster=video,
        )


FORMAT = Format(
    "daily-omni", "Daily-Omni", ("qa.json",), frozenset({"Question", "Choice", "Answer", "video_id", "Type"}), load
)
