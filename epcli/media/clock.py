"""When each frame of a stream is shown, found by decoding all of it: for streams whose packets do not tell.

Elementary streams (.h264, .h265) have no clock at all, and MPEG program streams stamp only the first frame of a packet.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np
from av.container import InputContainer

from epcli.errors import MediaError
from epcli.media.ffmpeg import Deadline, Process, name, source

if TYPE_CHECKING:
    from epcli.media.probe import StreamLayout


def decoded_times(layout: StreamLayout, deadline: Deadline) -> np.ndarray:
    """(F,) ascending times of all frames, seconds, as `decode.frames` will find them. Raises MediaError past the
    deadline."""
    output = source(layout.demuxer, **layout.decoding)[str(layout.video_index)].output(
        "pipe:1",
        format="nut",
        vcodec="rawvideo",
        vf=f"{layout.stamping}scale=2:2:flags=fast_bilinear,format=gray,setpts=PTS+{layout.ahead_s}/TB",
        fps_mode="passthrough",
        enc_time_base="1:1000000",
    )
    times: list[float] = []
    with Process(output, layout.info.path, deadline, layout.span) as process:
        with suppress(av.error.FFmpegError), av.open(process.stdout, format="nut") as pipe:
            assert isinstance(pipe, InputContainer)
            times = [
                float(packet.pts * packet.time_base) - layout.ahead_s
                for packet in pipe.demux(video=0)
                if packet.size and packet.pts is not None and packet.time_base is not None
            ]
        process.finish()
    return np.unique(np.array(times, np.float64))


def first_frame(layout: StreamLayout, deadline: Deadline) -> av.VideoFrame:
    """The first picture as ffmpeg decodes it, for codecs that PyAV has no decoder for. Raises MediaError."""
    output = source(layout.demuxer, **layout.decoding)[str(layout.video_index)].output(
        "pipe:1",
        format="matroska",  # carries the transfer curve
        vcodec="ffv1",
        fps_mode="passthrough",
        **{"frames:v": 1},
    )
    frame = None
    with Process(output, layout.info.path, deadline, layout.span) as process:
        with suppress(av.error.FFmpegError), av.open(process.stdout, format="matroska") as pipe:
            assert isinstance(pipe, InputContainer)
            frame = next(pipe.decode(video=0), None)
        process.stdout.close()
        process.finish()
        if frame is None:
            raise MediaError(
                f"{name(layout.info.path)}: this ffmpeg cannot decode it ({process.reason()}); convert it to png"
            )
    return frame
