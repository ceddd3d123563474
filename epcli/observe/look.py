"""Everything that can be observed in a file: what is said, heard, seen and read. It needs no language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from epcli.errors import MediaError, UsageError
from epcli.media.ffmpeg import name
from epcli.media.probe import probe
from epcli.observe.listen import Ears, Listener, listen
from epcli.observe.picture import Eye, observations
from epcli.observe.pieces import Mark, Progress, pieces
from epcli.records import Clip, Observation, Sampling

PIECE_S = 60.0  # decoded at a time with picture: 44 MB
FPS, MAX_PIXELS, MULTIPLE = 1.0, 640 * 384, 32
LONG_S, LONG_FPS = 1200.0, 0.5  # a longer file gets fewer frames


def observe(
    path: Path,
    *,
    picture: bool = True,
    sound: bool = True,
    start_s: float | None = None,
    end_s: float | None = None,
    on_progress: Progress | None = None,
    on_warning: Callable[[str], None] | None = None,
    ears: Ears | None = None,
    eye: Eye | None = None,
    audio_track: int | None = None,
    video_track: int | None = None,
    mark: Mark | None = None,
    on_mark: Callable[[Mark], None] | None = None,
) -> Iterator[Observation]:
    """All observations of a file, in bounded memory: a minute is read at a time.

    They come in the order of their start within each piece; what goes on comes when it has ended. A file that lacks
    sound or picture is observed by the other. `on_progress` is told the seconds that are done, and of how many. `ears`
    and `eye` save loading the parts for each file.

    `on_mark` is told where the file may be left, as soon as the observations up to there have been taken. With that as
    `mark`, and all else the same, the others follow.

    Raises MediaError for a file that cannot be read or has nothing of what is wanted, UsageError for an impossible
    range, WeightsError if the parts cannot be had.
    """
    if not (picture or sound):
        raise UsageError("picture and sound are both switched off, so there is nothing to observe")
    info = probe(path)
    picture, sound = picture and info.has_video, sound and info.has_audio
    if not (picture or sound):
        raise MediaError(f"{name(path)}: has no {'sound' if info.has_video else 'picture'}")
    ears = (ears or Ears.load()) if sound else None
    if not picture and ears is not None:
        yield from listen(
            path,
            ears,
            start_s=start_s,
            end_s=end_s,
            audio_track=audio_track,
            on_progress=on_progress,
            on_warning=on_warning,
            mark=mark,
            on_mark=on_mark,
        )
        return
    watcher = Watcher(eye or Eye())
    listener = Listener(ears) if ears is not None else None
    if mark is not None:
        watcher.restore(mark.seen or [])
        if listener is not None and mark.heard is not None:
            listener.restore(mark.heard)
    fps = LONG_FPS if info.duration_s > LONG_S else FPS
    sampling = Sampling(
        fps=fps,
        max_frames=round(2 * PIECE_S * fps),
        max_pixels=MAX_PIXELS,
        multiple=MULTIPLE,
        audio=sound,
        audio_track=audio_track,
        video_track=video_track,
    )
    for clip, last in pieces(path, sampling, PIECE_S, start_s, end_s, on_progress, on_warning, mark):
        found = watcher.see(clip, last=last)
        if listener is not None:
            samples = np.zeros(0, np.float32) if clip.samples is None else clip.samples
            found += listener.hear(samples, clip.range_s[0], last=last)
        yield from sorted(found, key=lambda each: each.start_s)
        if on_mark is not None and not last and not (clip.frames is None and clip.samples is None):
            on_mark(Mark(clip.range_s[1], listener.state() if listener is not None else None, watcher.state()))


class Watcher:
    """Looks at a file's picture piece by piece, in the order of time."""

    def __init__(self, eye: Eye) -> None:
        self._eye = eye
        self._going: list[Observation] = []  # seen up to the end of the last piece: it may go on

    def see(self, clip: Clip, *, last: bool) -> list[Observation]:
        """What is seen in a clip that begins where the one before ended; what may go on is kept unless it is `last`."""
        seen = self._eye.see(clip)
        start_s, end_s = clip.range_s
        here = observations(seen, start_s) if seen is not None else []
        step_s = seen.step_s if seen is not None else 0.0
        over = []
        for before in self._going:
            after = next((each for each in here if _goes_on(before, each, step_s)), None)
            if after is None:
                over.append(before)
            else:
                here[here.index(after)] = _joined(before, after)
        self._going = [] if last else [each for each in here if each.kind != "cut" and each.end_s >= end_s - step_s]
        return over + [each for each in here if each not in self._going]

    def state(self) -> list[Any]:
        """What is kept from piece to piece, as JSON types."""
        return [each.to_row() for each in self._going]

    def restore(self, state: list[Any]) -> None:
        """Go on from a `state`."""
        self._going = [Observation.of_row(row) for row in state]


def _goes_on(before: Observation, after: Observation, step_s: float) -> bool:
    return (before.kind, before.text) == (after.kind, after.text) and after.start_s - before.end_s <= step_s


def _joined(before: Observation, after: Observation) -> Observation:
    surest = max(before, after, key=lambda each: each.confidence)
    count = max(before.count, after.count)
    return replace(surest, start_s=before.start_s, end_s=after.end_s, count=count)
