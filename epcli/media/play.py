"""Every frame of a time range in order, for views that show the film itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from epcli.errors import MediaError
from epcli.media import stills
from epcli.media.ffmpeg import Deadline, Process, name, read_into, source
from epcli.media.probe import DEFAULT_DEADLINE_S, StreamLayout, inspect


def frames(
    path: Path, start_s: float, end_s: float, size: tuple[int, int], fps: float, video_track: int | None = None
) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB, upright, `fps` a second from `start_s` to `end_s`, scaled to (width, height) `size`.

    One at a time: a long film needs no more memory than a short one. Raises MediaError if nothing can be decoded.
    """
    deadline = Deadline(DEFAULT_DEADLINE_S + 10 * (end_s - start_s))
    for part, low, high in inspect(path, deadline, video_track).within(start_s, end_s):
        if part.info.has_video:
            yield from _frames(part, low, high, size, fps, deadline)


def _frames(
    layout: StreamLayout, start_s: float, end_s: float, size: tuple[int, int], fps: float, deadline: Deadline
) -> Iterator[np.ndarray]:
    path = layout.info.path
    if layout.demuxer == stills.PILLOW:
        times = [start_s + number / fps for number in range(max(1, round((end_s - start_s) * fps)))]
        yield from stills.frames(layout, times, size, deadline)
        return
    start, end = layout.origin_s + start_s, layout.origin_s + end_s
    options = layout.decoding
    if start_s > 1 and layout.times_s is None:
        options |= {"ss": f"{start - 1:.6f}", "noaccurate_seek": None}
    chain = (
        f"{layout.stamping}fps={fps:g}:start_time={start:.6f},trim=start={start:.6f}:end={end:.6f},"
        f"{layout.pixels.filters(size)}"
    )
    output = source(layout.demuxer, **options)[str(layout.video_index)].output(
        "pipe:1", format="rawvideo", vcodec="rawvideo", vf=chain, fps_mode="passthrough"
    )
    count = 0
    with Process(output, path, deadline, layout.span) as process:
        room = np.empty(layout.pixels.byte_count(size), np.uint8)
        while read_into(process.stdout, room.data) == room.nbytes:
            count += 1
            yield layout.pixels.picture(room.tobytes(), size)[0]
        process.finish()
        if not count:
            raise MediaError(f"{name(path)}: no picture could be decoded ({process.reason()})")
