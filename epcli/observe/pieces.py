"""A file of any length, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epcli.errors import MediaError
from epcli.media.ffmpeg import name
from epcli.media.probe import probe
from epcli.media.read import read
from epcli.records import Clip, Sampling

Progress = Callable[[float, float], None]  # seconds done, seconds in all

SOUND_PIECE_S = 300.0  # decoded at a time without picture: 19 MB
MOST_WARNINGS = 5  # of one file; a damaged one has something to say about each piece


@dataclass(frozen=True)
class Mark:
    """Where a file may be left: whoever goes on from there observes what an uninterrupted run would."""

    at_s: float  # seconds of the file
    heard: dict[str, Any] | None  # what a Listener keeps from piece to piece, as JSON types
    seen: list[Any] | None  # what a Watcher keeps


def pieces(
    path: Path,
    sampling: Sampling,
    piece_s: float,
    start_s: float | None = None,
    end_s: float | None = None,
    on_progress: Progress | None = None,
    on_warning: Callable[[str], None] | None = None,
    mark: Mark | None = None,
) -> Iterator[tuple[Clip, bool]]:
    """A file in clips of `piece_s` one after another, and whether each is the last; from a `mark` on.

    Progress is told at the beginning, and when the next clip is wanted. A piece in which nothing can be read is empty,
    with a warning. Raises MediaError for a file in which that holds for all, or that lacks what is wanted, UsageError
    for an impossible range.
    """
    info = probe(path)
    if not sampling.video and not info.has_audio:
        raise MediaError(f"{name(path)}: has no sound")
    begin = start_s or 0.0
    end = info.duration_s if end_s is None else min(end_s, info.duration_s)
    warnings = _Warnings(name(path), on_warning)
    at = begin if mark is None else mark.at_s
    if on_progress is not None and end > begin:
        on_progress(at - begin, end - begin)
    if end - begin <= 1.2 * piece_s:  # read() judges impossible ranges
        clip = read(path, sampling, start_s, end_s)
        warnings.add(clip.warnings)
        yield clip, True
        if on_progress is not None and clip.duration_s:
            on_progress(clip.duration_s, clip.duration_s)
        warnings.finish()
        return
    found = mark is not None
    while at < end:
        until = end if end - at <= 1.2 * piece_s else at + piece_s
        try:
            clip = read(path, sampling, at, until)
        except MediaError as error:
            if until >= end and not found:
                raise
            warnings.add([str(error)])
            clip = Clip(info, (at, until), None, None, None)
        else:
            found = True
            warnings.add(each for each in clip.warnings if " is silent" not in each)
        yield clip, until >= end
        at = until
        if on_progress is not None:
            on_progress(at - begin, end - begin)
    warnings.finish()


class _Warnings:
    """Tells each warning of a file once, and not too many."""

    def __init__(self, label: str, tell: Callable[[str], None] | None) -> None:
        self._label, self._tell = label, tell or (lambda message: None)
        self._told: set[str] = set()

    def add(self, messages: Iterable[str]) -> None:
        for message in messages:
            if message not in self._told and len(self._told) < MOST_WARNINGS:
                self._tell(message)
            self._told.add(message)

    def finish(self) -> None:
        """Say how many were not told."""
        if (more := len(self._told) - MOST_WARNINGS) > 0:
            self._tell(f"{self._label}: {more} more warnings like these")
