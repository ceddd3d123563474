"""Every frame of a time range in order, for views that show the film itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from epcli.errors import MediaError
from epcli.media.ffmpeg import Deadline, Process, name, read_into, source
from epcli.media.probe import DEFAULT_DEADLINE_S, inspect


def frames(path: Path, start_s: float, end_s: float, size: tuple[int, int], fps: float) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB, upright, `fps` a second from `start_s` to `end_s`, scaled to (width, height) `size`.

    One at a time: a long film needs no more memory than a short one. Raises MediaError if nothing can be decoded.
    """
    deadline = Deadline(DEFAULT_DEADLINE_S + 10 * (end_s - start_s))
    layout = inspect(path, deadline)
    width, height = reversed(size) if layout.turn.swap else size
    start, end = layout.origin_s + start_s, layout.origin_s + end_s
    options: dict[str, object] = {"noautorotate": None, "threads": layout.threads}
    if start_s > 1:
        options |= {"ss": f"{start - 1:.6f}", "noaccurate_seek": None}
    chain = (
        f"fps={fps:g}:start_time={start:.6f},trim=start={start:.6f}:end={end:.6f},"
        f"scale={width}:{height}:flags=bicubic,setsar=1,format=rgb24"
    )
    output = source(layout.demuxer, **options)[str(layout.video_index)].output(
        "pipe:1", format="rawvideo", vcodec="rawvideo", vf=chain, fps_mode="passthrough"
    )
    count = 0
    with Process(output, path, deadline) as process:
        room = np.empty((height, width, 3), np.uint8)
        while read_into(process.stdout, room.data.cast("B")) == room.nbytes:
            count += 1
            yield layout.turn.apply(room).copy()
        process.finish()
        if not count:
            raise MediaError(f"{name(path)}: no picture could be decoded ({process.reason()})")
