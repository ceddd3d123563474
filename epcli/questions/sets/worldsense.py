"""WorldSense (honglyhly/WorldSense): worldsense_qa.json by video id, videos/<id>.mp4; or the flat Parquet rows.

A video's record holds task0, task1, … beside its own fields. Types are the 26 task types.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from epcli.questions.items import Item, choice_item
from epcli.questions.sets.base import Format
from epcli.questions.sets.files import Finder, Row, listed


def load(rows: list[Row], finder: Finder, annotation: Path) -> Iterator[Item]:
    for row in rows:
        video = str(row["_id"])
        for name, task in row.items():
            if name.startswith("task") and isinstance(task, dict):
                yield _item(f"{video}/{name}", video, finder.find(f"videos/{video}.*", f"{video}.*"), task)


def load_flat(rows: list[Row], finder: Finder, annotation: Path) -> Iterator[Item]:
    for row in rows:
        place = str(row["video_path"]).removeprefix("./")
        yield _item(str(row["index"]), Path(place).stem, finder.find(place, f"videos/{Path(place).name}"), row)


def _item(key: str, video: str, media: Path, task: Row) -> Item:
    options = listed(task["candidates"])
    return choice_item(
        key, media, task["question"], options, str(task["answer"]), type=str(task["task_type"]), cluster=video
    )


FORMAT = Format("worldsense", "WorldSense", ("worldsense_qa.json",), frozenset({"_id", "task0"}), load)
FLAT = Format(
    "worldsense",
    "WorldSense",
    ("*.parquet", "data/*.parquet"),
    frozenset({"index", "video_path", "question", "candidates", "answer", "task_type"}),
    load_flat,
)
