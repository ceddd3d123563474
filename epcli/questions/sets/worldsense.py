"""WorldSense (honglyhly/WorldSense): worldsense_qa.json by video id, videos/<id>.mp4; or the flat Parquet rows.

A video's record holds task0, task1, … beside its own fields. Types are the 26 task types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from epcli.questions.files import Finder, Row, listed
from epcli.questions.record import Question, choice
from epcli.questions.sets.base import Format


def load(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    video = str(row["_id"])
    for name, task in row.items():
        if name.startswith("task") and isinstance(task, dict):
            yield _question(f"{video}/{name}", video, finder.find(f"videos/{video}.*", f"{video}.*"), task)


def load_flat(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    place = str(row["video_path"]).removeprefix("./")
    yield _question(str(row["index"]), Path(place).stem, finder.find(place, f"videos/{Path(place).name}"), row)


def _question(key: str, video: str, media: Path, task: Mapping[str, Any]) -> Question:
    options = listed(task["candidates"])
    return choice(
        key, media, task["question"], options, str(task["answer"]), type=str(task["task_type"]), cluster=video
    )


NESTED = Format("worldsense", "WorldSense", ("worldsense_qa.json",), frozenset({"_id", "task0"}), load)
FLAT = Format(
    "worldsense",
    "WorldSense",
    ("*.parquet", "data/*.parquet"),
    frozenset({"index", "video_path", "question", "candidates", "answer", "task_type"}),
    load_flat,
)
FORMATS = (NESTED, FLAT)
