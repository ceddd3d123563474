"""LLaVA-Video: {"video" (or "image"), "conversations": [{"from": "human" or "gpt", "value"}, ...]}.

The media lie anywhere below the folder. Each question of a conversation stands by itself: in this set they do not
refer to each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from epcli.questions.files import Finder, Row, text_of
from epcli.questions.record import Exact, Question
from epcli.questions.sets.base import Format

_PLACEHOLDER = re.compile(r"\s*<(?:image|video|audio)>\s*")


def load(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    place = text_of(row, "video" if "video" in row else "image")
    turns = row["conversations"]
    roles = [turn["from"] for turn in turns]
    if not turns or roles != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError(f"its conversation goes {', '.join(map(str, roles)) or 'nowhere'}, not human, gpt, ...")
    for asked, said in zip(turns[::2], turns[1::2], strict=True):
        answer = text_of(said, "value")
        yield Question(
            _PLACEHOLDER.sub("", text_of(asked, "value")),
            finder.find(place),
            answer=answer,
            rule=Exact(answer),
            type=str(row.get("data_source") or "llava-video"),
            cluster=place,
        )


FORMATS = (Format("llava-video", "LLaVA-Video", ("*_qa_processed.json",), frozenset({"conversations"}), load),)
