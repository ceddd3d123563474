"""Which frames to decode, and at what size: decided on packet times alone, before anything is decoded.

A range is cut into equal intervals, one frame each: the frame on screen at the interval's centre, so that a frame is
never further than half an interval from what it stands for, and a single frame is the middle one. Where intervals are
wider than the distance of keyframes and not just a few, a keyframe of the interval is taken instead, which decodes by
itself (measured in the design: 1.0 s for keyframes only, where 64 exact seeks took 8.1 s).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import av.error
import numpy as np

from epcli.errors import UsageError
from epcli.media.ffmpeg import Deadline
from epcli.media.probe import TICK_S, StreamLayout, opened
from epcli.records import MediaInfo, Sampling

INDEXED = frozenset(
    ("mov", "matroska", "avi", "mxf", "yuv4mpegpipe")
)  # seeking lands on a keyframe at or before the time asked for
WINDOW_STEP_S = 10.0  # intervals wider than this are looked up one by one; narrower ones by reading on
REORDER_S = 1.0  # a frame is not stored later than this behind one shown after it
FEW_FRAMES = 8  # so many are always exact: seeking to them takes a second or two
KEYFRAMES_SUFFICE = 0.9  # share of the intervals that must hold a keyframe


@dataclass(frozen=True)
class FramePick:
    """One frame to decode. Times are the file's own timestamps, seconds."""

    at_s: float  # the frame's presentation time; if not `is_known`, a time that the frame is the first one after
    low_s: float  # the interval it stands for
    high_s: float
    is_keyframe: bool = False  # decodes without the frames before it
    is_known: bool = True  # `at_s` was read from the file


def fit_size(width: int, height: int, max_pixels: int, multiple: int) -> tuple[int, int]:
    """(width, height) to scale to: multiples of `multiple`, area up to `max_pixels`, aspect ratio as close as possible.

    Distortion counts four times as much as area left unused (as logarithms of ratios). Small pictures are scaled up.
    Raises UsageError if not even one multiple x multiple cell fits.
    """
    cells = max_pixels // multiple**2
    if cells < 1:
        raise UsageError(f"max_pixels {max_pixels} is smaller than one cell of {multiple}x{multiple} pixels")
    aspect = width / height
    ideal = math.sqrt(cells * aspect)  # columns that would use all cells without distortion
    first, last = (min(cells, max(1, round(ideal * factor))) for factor in (0.5, 2.0))
    sizes = [
        (columns, min(max(1, rows), cells // columns))
        for columns in range(first, last + 1)
        for rows in (math.floor(columns / aspect), math.ceil(columns / aspect))
    ]
    columns, rows = min(
        sizes, key=lambda size: 4 * abs(math.log(size[0] / size[1] / aspect)) - math.log(size[0] * size[1])
    )
    return columns * multiple, rows * multiple


def with_room(sampling: Sampling, info: MediaInfo, duration_s: float) -> Sampling:
    """The sampling of a still or a clip of `duration_s`: few frames share `few_pixels`, up to their own size."""
    frames = 1 if info.is_image else frame_count(duration_s, sampling.fps, sampling.max_frames)
    own = math.ceil(info.width / sampling.multiple) * math.ceil(info.height / sampling.multiple) * sampling.multiple**2
    return replace(sampling, max_pixels=max(sampling.max_pixels, min(sampling.few_pixels // frames, own)), few_pixels=0)


def frame_count(duration_s: float, fps: float, max_frames: int) -> int:
    """Intervals to cut a range into: one each 1/fps seconds, rounded, at least one, at most `max_frames`."""
    return max(1, min(max_frames, math.floor(duration_s * fps + 0.5)))


def shown_at(times: np.ndarray, last_end: float, centre: float, low: float, high: float) -> float | None:
    """Presentation time of the frame for the interval [low, high): the one on screen at its centre, else one within it.

    `times` (F,) ascending presentation times, `last_end` until when the last of them is shown. None if the screen is
    empty: before the first frame (the sound began earlier) or after the last.
    """
    after = int(np.searchsorted(times, centre + TICK_S, side="right"))
    if after > 0:
        end = times[after] if after < len(times) else last_end
        if end > centre or times[after - 1] >= low:
            return float(times[after - 1])
    if after < len(times) and times[after] < high:
        return float(times[after])
    return None


def pick_frames(layout: StreamLayout, start_s: float, end_s: float, count: int, deadline: Deadline) -> list[FramePick]:
    """The frames to decode for `count` intervals of [start_s, end_s) (file timestamps), ascending.

    Fewer than `count` where the picture stream does not cover the range. Neighbours may name the same frame, if it
    stays on screen (a slide). Raises MediaError if the file cannot be parsed.
    """
    edges = start_s + (end_s - start_s) / count * np.arange(count + 1)
    intervals = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    wide = (end_s - start_s) / count > WINDOW_STEP_S
    if layout.times_s is not None:
        times = layout.times_s
        last_end = float(times[-1]) + layout.frame_s if len(times) else -math.inf
        found = ((shown_at(times, last_end, (low + high) / 2, low, high), low, high) for low, high in intervals)
        return [FramePick(at, low, high) for at, low, high in found if at is not None]
    if wide and layout.demuxer not in INDEXED:
        return [FramePick((low + high) / 2, low, high, is_known=False) for low, high in intervals]
    exact: list[FramePick | None] = []
    keyed: list[FramePick | None] = []
    with opened(layout.info.path, deadline, layout.span) as container:
        packets = None if wide else _packets(container, layout, start_s, end_s)
        for low, high in intervals:
            centre = (low + high) / 2
            times, keys, last_end = packets or _packets(container, layout, centre, centre)
            at = shown_at(times, last_end, centre, low, high)
            exact.append(None if at is None else FramePick(at, low, high))
            inside = keys[(keys >= low) & (keys < high)]
            if wide and not len(inside) and at is not None:
                keys = _packets(container, layout, high, high)[1]
                inside = keys[(keys >= low) & (keys < high)]
            before = inside[inside <= centre + TICK_S]
            nearest = before[-1] if len(before) else inside[0] if len(inside) else None
            keyed.append(None if nearest is None else FramePick(float(nearest), low, high, is_keyframe=True))
    shown = [pick for pick in exact if pick is not None]
    if count > FEW_FRAMES and sum(pick is not None for pick in keyed) >= KEYFRAMES_SUFFICE * len(shown):
        return [pick for pick in map(_either, keyed, exact) if pick is not None]
    return shown


def _either(first: FramePick | None, second: FramePick | None) -> FramePick | None:
    return first if first is not None else second


def _packets(container: Any, layout: StreamLayout, low: float, high: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Presentation times of the frames from the last keyframe before `low` to the first frame after `high`.

    Returns ((F,) ascending times, (K,) ascending times of keyframes, when the last frame's showing ends: infinity if
    the file goes on).
    """
    stream = container.streams[layout.video_index]
    tick = float(stream.time_base)
    frame_s = 1 / float(stream.average_rate) if stream.average_rate else 0.0
    times, keys, last = [], [], (-math.inf, -math.inf)
    with suppress(av.error.FFmpegError):  # cannot seek: read on from here
        # Not before the first picture: FLV fails then, and has lost what was read ahead.
        container.seek(max(math.floor(low / tick), stream.start_time or 0), stream=stream)
    with suppress(av.error.FFmpegError):  # broken off: what came before counts
        for packet in container.demux(stream):
            stamp = packet.pts if packet.pts is not None else packet.dts  # AVI has no pts
            if stamp is None or not packet.size or packet.is_discard or stamp * tick < layout.picture_from_s:
                continue
            times.append(stamp * tick)
            if packet.is_keyframe:
                keys.append(stamp * tick)
            last = max(last, (stamp * tick, stamp * tick + (packet.duration * tick if packet.duration else frame_s)))
            # Frames are stored in decoding order, but none is decoded after it is shown. Matroska has no dts.
            if (packet.dts * tick if packet.dts is not None else packet.pts * tick - REORDER_S) > high:
                last = (math.inf, math.inf)
                break
    return np.sort(np.array(times)), np.sort(np.array(keys)), last[1]
