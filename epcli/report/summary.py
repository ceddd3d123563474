"""A summary as text, as chapter lists for players and YouTube, and as JSON."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

from epcli.text import format_range, format_time, one_line, printable, visible_json

if TYPE_CHECKING:
    from epcli.session.summary import Summary

SUMMARY_SCHEMA = 1
LONGEST_TITLE = 100  # letters that YouTube shows


def to_text(summary: Summary, width: int) -> str:
    """Each chapter: its time, its key words, its sentence."""
    told = []
    for part in summary.parts:
        chapter = part.chapter
        time = format_range(round(chapter.start_s), round(chapter.end_s))
        title = ", ".join(chapter.key_words) or chapter.title
        body = textwrap.fill(
            one_line(part.sentence), max(width, 40), initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
        told.append(f"{time}  {one_line(title)}\n{body}\n")
    return "\n".join(told)


def to_youtube(summary: Summary) -> str:
    """A line for each chapter, as a description on YouTube has them: the time it begins, and a title.

    The first begins at 0:00, whatever range was summarised: without that the list is not taken.
    """
    rows = []
    for number, part in enumerate(summary.parts):
        begin = 0 if number == 0 else int(part.chapter.start_s)
        title = " ".join(printable(part.chapter.title, " ").split())
        rows.append(f"{format_time(begin)} {title[:LONGEST_TITLE]}\n")
    return "".join(rows)


def to_ffmetadata(summary: Summary) -> str:
    """Metadata for ffmpeg: ffmpeg -i FILE -i chapters.txt -map_metadata 1 -c copy NEW."""
    told = [";FFMETADATA1\n"]
    for part in summary.parts:
        title = re.sub(r"([=;#\\])", r"\\\1", printable(part.chapter.title, " "))
        start, end = (round(second * 1000) for second in (part.chapter.start_s, part.chapter.end_s))
        told.append(f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={end}\ntitle={title}\n")
    return "".join(told)


def to_json(summary: Summary) -> str:
    """One JSON object, indented."""
    found = {
        "schema": SUMMARY_SCHEMA,
        "path": str(summary.info.path),
        "duration_s": summary.info.duration_s,
        "range_s": summary.range_s,
        "model": summary.model,
        "chapters": [
            {**_rounded(asdict(part.chapter)), "title": part.chapter.title, "sentence": part.sentence}
            for part in summary.parts
        ],
        "warnings": summary.warnings,
    }
    return visible_json(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def _rounded(chapter: dict) -> dict:
    return chapter | {name: round(chapter[name], 3) for name in ("start_s", "end_s")}
