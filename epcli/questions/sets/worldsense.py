"""WorldSense (honglyhly/WorldSense): worldsense_qa.json by video id, videos/<id>.mp4; or the flat Parquet rows.

A video's record holds task0, task1, … beside its own fields. Types are the 26 task types.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from epcli.questions.files import Finder, Row, listed
from epcli.questions.record import Question
from epcli.questions.sets.base import Format, multiple_choice


def load(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    video = str(row["_id"])
    for name, task in row.items():
        if name.startswith("task") and isinstance(task, dict):
            media = finder.find(f"videos/{video}.*", f"{video}.*")
            yield multiple_choice(f"{video}/{name}", media, task, listed(task["candidates"]), video)


def load_flat(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    place = str(row["video_path"]).removeprefix("./")
    media = finder.find(place, f"videos/{Path(place).name}")
    yield multiple_choice(str(row["index"]), media, row, listed(row["candidates"]), Path(place).stem)


NESTED = Format("worldsense", "WorldSense", ("worldsense_qa.json",), frozenset({"_id", "task0"}), load)
FLAT = Format(
    "worldsense",
    "WorldSense",
    ("*.parquet", "data/*.parquet"),
    frozenset({"index", "video_path", "question", "candidates", "answer", "task_type"}),
    load_flat,
)
FORMATS = (NESTED, FLAT)
