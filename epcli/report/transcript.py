"""What was said in a file, as text, subtitles or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from epcli.observe.phrases import lines
from epcli.records import MediaInfo, Observation
from epcli.report.subtitles import cues, to_srt, to_vtt
from epcli.text import format_time, one_line, visible_json

TRANSCRIPT_SCHEMA = 1
Words = Iterable[Observation]


@dataclass(frozen=True)
class About:
    """What is known of a transcript besides its words."""

    info: MediaInfo
    range_s: tuple[float, float]
    speech: str  # the speech model
    language: Callable[[], str | None]  # asked when the words are over


def to_text(words: Words, about: About) -> Iterator[str]:
    """A line for a sentence or two, with the time at which it begins."""
    for line in lines(words):
        yield f"{format_time(int(line.start_s))}  {one_line(line.text)}\n"


def as_srt(words: Words, about: About) -> Iterator[str]:
    """SubRip."""
    return to_srt(cues(words))


def as_vtt(words: Words, about: About) -> Iterator[str]:
    """WebVTT."""
    return to_vtt(cues(words))


def to_json(words: Words, about: About) -> Iterator[str]:
    """One JSON object, on one line."""
    said = list(words)
    found = {
        "schema": TRANSCRIPT_SCHEMA,
        "path": str(about.info.path),
        "duration_s": about.info.duration_s,
        "range_s": about.range_s,
        "speech": about.speech,
        "language": about.language() if said else None,
        "lines": [line._asdict() for line in lines(said)],
        "words": [
            {
                "text": word.text,
                "start_s": round(word.start_s, 3),
                "end_s": round(word.end_s, 3),
                "confidence": round(word.confidence, 3),
            }
            for word in said
        ],
    }
    yield visible_json(json.dumps(found, ensure_ascii=False, allow_nan=False)) + "\n"


FORMATS: dict[str, Callable[[Words, About], Iterator[str]]] = {
    "txt": to_text,
    "srt": as_srt,
    "vtt": as_vtt,
    "json": to_json,
}
