"""Pixels and samples out of ffmpeg, through pipes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import av
import av.error
import numpy as np
from av.container import InputContainer

from epcli.errors import CapacityError
from epcli.media import stills
from epcli.media.ffmpeg import Deadline, MessageFilter, Process, name, source
from epcli.media.probe import StreamLayout
from epcli.media.sampling import INDEXED, TICK_S, FramePick
from epcli.records import SAMPLE_RATE

# A gap between two frames longer than this is skipped by seeking, a shorter one is decoded through. About where the two
# cost the same: 64 frames of 10 minutes of noisy 720p30 h264 in MP4 on 2 cores (9.4 s apart) took, exact frames, 29.5 s
# in one pass and 8.7 s by seeking; keyframes only, 3.9 s and 4.7 s. (All frames of the design's cleaner film: 9.7 s.)
EXACT_GAP_S = 4.0
KEYFRAME_GAP_S = 12.0
SEEKS_AT_A_TIME = 2
FRAMES_A_RUN = 500  # bounds the length of ffmpeg's command line
RUN_IN_S = 3.0  # decoded ahead of a frame where seeking may land between keyframes
LONG_RUN_IN_S = 30.0  # the same at the second try
MOST_JITTER_S = 0.1  # sound whose time stamps are further off than this has a gap
CANCELLED = 0.1  # of the louder channel's energy: with less in the mix of both, they cancel out (alike, they keep all)
# Bare sound without time stamps: where it is in time is a matter of counting samples. What ffmpeg says instead is wrong
# behind a change of the sample rate, and so is where it seeks to.
_COUNTED = frozenset(("aac", "ac3", "eac3", "amr"))
SOUND_RUN_IN_S = 1.0  # decoded ahead of a range, for codecs whose first packets after a seek are not yet right


class Frame(NamedTuple):
    """A decoded frame."""

    at_s: float  # presentation time
    picture: np.ndarray  # (H, W, 3) uint8 RGB
    boxed: bool = False  # it has another shape than the first of the file, and stands between bars


Found = dict[FramePick, Frame]


@dataclass(frozen=True)
class _Group:
    """Neighbours that one ffmpeg decodes through."""

    picks: list[FramePick]
    keyframes_only: bool
    run_in_s: float  # how far ahead decoding starts


def frames(
    layout: StreamLayout, picks: Sequence[FramePick], size: tuple[int, int], deadline: Deadline
) -> tuple[Found, list[str]]:
    """Decode each pick's frame at (width, height) `size`: what was found, and messages about damage.

    A frame that cannot be decoded is replaced by the next one of its interval; where there is none, the pick is
    missing from the result. Raises MediaError past the deadline.
    """
    if layout.demuxer == stills.PILLOW:
        pictures = stills.frames(layout, [pick.at_s for pick in picks], size, deadline)
        return {pick: Frame(pick.at_s, picture) for pick, picture in zip(picks, pictures, strict=True)}, []
    if layout.times_s is not None:  # its packets tell no times to seek to
        return _decode_all(layout, _groups(picks, math.inf, False, math.inf), size, deadline)
    run_in = 0.0 if layout.demuxer in INDEXED else RUN_IN_S
    keyed = [pick for pick in picks if pick.is_keyframe]
    exact = [pick for pick in picks if not pick.is_keyframe]
    groups = _groups(keyed, KEYFRAME_GAP_S, True, run_in) + _groups(exact, EXACT_GAP_S, False, run_in)
    found, damage = _decode_all(layout, groups, size, deadline)
    # Landed behind the frame (open groups of pictures, a wrong index), or it is no keyframe: come from further off.
    missed = [m for m in picks if m not in found or (m.is_known and found[m].at_s > m.at_s + 2 * TICK_S)]
    if missed:
        again = _groups(missed, EXACT_GAP_S, False, LONG_RUN_IN_S)
        more, messages = _decode_all(layout, again, size, deadline)
        found, damage = found | more, damage + messages
    return found, damage


def _groups(picks: Sequence[FramePick], gap_s: float, keyframes_only: bool, run_in_s: float) -> list[_Group]:
    """Cut ascending picks where seeking to the next is cheaper than decoding up to it."""
    groups: list[_Group] = []
    for pick in picks:
        last = groups[-1].picks if groups else []
        if last and pick.at_s - last[-1].at_s <= gap_s and len(last) < FRAMES_A_RUN:
            last.append(pick)
        else:
            groups.append(_Group([pick], keyframes_only, run_in_s))
    return groups


def _decode_all(
    layout: StreamLayout, groups: list[_Group], size: tuple[int, int], deadline: Deadline
) -> tuple[Found, list[str]]:
    """Decode the groups, two at a time."""
    found: Found = {}
    damage: list[str] = []
    threads = 1 if len(groups) > 1 else layout.threads
    pool = ThreadPoolExecutor(SEEKS_AT_A_TIME)
    try:
        jobs = [pool.submit(_decode, layout, group, size, deadline, threads) for group in groups]
        for group, job in zip(groups, jobs, strict=True):
            decoded, messages = job.result()
            damage += messages
            for pick in group.picks:
                # The first frame at or after the pick that its interval still reaches.
                frame = next((item for item in decoded if item.at_s >= pick.at_s - TICK_S), None)
                if frame is not None and frame.at_s < max(pick.high_s, pick.at_s + TICK_S):
                    found[pick] = frame
    except BaseException:
        deadline.stop()  # an interrupt must not wait for what still runs
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return found, damage


def _decode(
    layout: StreamLayout, group: _Group, size: tuple[int, int], deadline: Deadline, threads: int
) -> tuple[list[Frame], list[str]]:
    """One ffmpeg over a group: its frames by ascending time, and messages about damage."""
    times = sorted({pick.at_s for pick in group.picks})
    options = layout.decoding | {"threads": threads}
    start = times[0] - group.run_in_s
    if start > layout.origin_s:
        options |= {"ss": f"{start:.6f}", "noaccurate_seek": None}
    if group.keyframes_only:
        # Not `-discard nokey`, though it halves the time on MP4: ffmpeg 5.1 and 9.0 then tell wrong presentation times.
        options["skip_frame"] = "nokey"
    # The first frame at or after each time: is there a time between the frame chosen last, ld(0), and this one?
    passed = "+".join(f"gte(t,{time - TICK_S:.4f})*lt(ld(0),{time - TICK_S:.4f})" for time in times)
    chain = (
        f"{layout.stamping}select='st(0,if(isnan(prev_selected_t),-1e9,prev_selected_t));{passed}',"
        f"{layout.pixels.filters(size)},setpts=PTS+{layout.ahead_s}/TB"
    )
    output = source(layout.demuxer, **options)[str(layout.video_index)].output(
        "pipe:1",
        format="nut",  # carries the presentation times
        vcodec="rawvideo",
        vf=chain,
        fps_mode="passthrough",
        enc_time_base="1:1000000",
        **{"frames:v": len(times)},
    )
    decoded = []
    with Process(output, layout.info.path, deadline, layout.span) as process:
        for stamp, picture in _packets(process, layout):
            decoded.append(Frame(stamp, *layout.pixels.picture(picture, size)))
        process.finish()
        messages = _damage(process, layout, layout.video_index, start <= layout.origin_s)
        if not decoded and not messages and process.status:
            messages = [process.reason()]
    return decoded, messages


def _packets(process: Process, layout: StreamLayout) -> Iterator[tuple[float, bytes]]:
    """What ffmpeg writes, one stream as NUT: the time in the file of each packet, and its bytes."""
    # An error of PyAV's: ffmpeg ended without any, or was stopped; what that means is for the caller.
    with suppress(av.error.FFmpegError), av.open(process.stdout, format="nut") as pipe:
        assert isinstance(pipe, InputContainer)
        for packet in pipe.demux():
            if packet.size and packet.pts is not None and packet.time_base is not None:
                yield float(packet.pts * packet.time_base) - layout.ahead_s, bytes(packet)


def _damage(process: Process, layout: StreamLayout, stream: int | None, from_start: bool) -> list[str]:
    """The messages about damage of a stream; none from a decoder that was started in the middle of anything."""
    if not (from_start or layout.demuxer in INDEXED) or stream is None:
        return []
    others = [names for number, names in layout.codecs.items() if number != stream]
    about = MessageFilter(
        stream,
        layout.codecs.get(stream, frozenset()),
        frozenset().union(*others),
        layout.begins_mid_group,
        layout.is_open_ended,
    )
    return process.damage(about, from_start)


@dataclass(frozen=True, eq=False)
class Sound:
    """What was decoded of a sound track."""

    samples: np.ndarray  # (S,) float32 mono in [-1, 1] at SAMPLE_RATE
    damage: list[str]  # messages about damage
    cancelled_s: float  # how long left and right cancelled out, and the louder of them was taken
    not_numbers: bool  # there were NaN or infinite samples, which became zero
    gap_s: float = 0.0  # the longest time between two pieces, which is silent


def sound(layout: StreamLayout, track: int, start_s: float, end_s: float, deadline: Deadline) -> Sound:
    """Decode [start_s, end_s) (file timestamps) of a sound track.

    Sample 0 is at start_s: silence where the track starts later or has a gap over MOST_JITTER_S. There are fewer than
    the range has where the track ends earlier, none if it has nothing in it. Channels are averaged; where left and
    right cancel out, the louder of them is taken. Raises MediaError past the deadline, CapacityError if it is huge.
    """
    options = {}
    if start_s - SOUND_RUN_IN_S > layout.origin_s and layout.demuxer not in _COUNTED:
        options = {"ss": f"{start_s - SOUND_RUN_IN_S:.6f}", "noaccurate_seek": None}
    stream = layout.audio_indices[track]
    output = source(layout.demuxer, **options)[str(stream)].output(
        "pipe:1",
        format="nut",  # carries the presentation times: ffmpeg builds its filters anew where rate or channels change
        acodec="pcm_f32le",
        # ffmpeg spreads mono over two channels 3 dB lower. rematrix_maxval: a downmix keeps to [-1, 1], as it does for
        # integer samples.
        af=f"asetpts=PTS+{layout.ahead_s}/TB,volume='if(eq(nb_channels,1),sqrt(2),1)',"
        f"aresample={SAMPLE_RATE}:rematrix_maxval=1,aformat=sample_fmts=flt:channel_layouts=stereo",
    )
    try:
        samples = np.zeros(round((end_s - start_s) * SAMPLE_RATE), np.float32)
    except (MemoryError, ValueError):  # a broken header may claim any length
        raise CapacityError(
            f"{name(layout.info.path)}: {(end_s - start_s) / 3600:.0f} hours of sound do not fit in memory; "
            "ask for a shorter range (--start, --end)"
        ) from None
    mono = _Mono(samples)
    messages: list[str] = []
    with Process(output, layout.info.path, deadline, layout.span) as process:
        for stamp, stereo in _packets(process, layout):
            at = round((stamp - start_s) * SAMPLE_RATE)
            mono.add(at, np.frombuffer(stereo, np.float32).reshape(-1, 2), layout.demuxer in _COUNTED)
            if mono.is_over:
                break
        mono.flush()
        if not mono.is_over:
            process.finish()
        messages = _damage(process, layout, stream, not options)
        if not mono.count and not messages and process.status:
            messages = [process.reason()]
    return Sound(
        samples[: mono.count], messages, mono.cancelled / SAMPLE_RATE, mono.not_numbers, mono.gap / SAMPLE_RATE
    )


class _Mono:
    """Puts pieces of stereo sound where they belong and mixes them down, a second at a time."""

    def __init__(self, samples: np.ndarray) -> None:
        """`samples`: (S,) float32 zeros, which are filled."""
        self._samples = samples
        self._block = np.empty((SAMPLE_RATE, 2), np.float32)
        self._fill = 0  # samples in the block
        self._start: int | None = None  # where the block belongs; None before the first piece
        self.is_over = False  # a piece belonged behind the last sample
        self.cancelled = 0  # samples of blocks in which left and right cancel out
        self.not_numbers = False
        self.gap = 0  # samples: the longest between two pieces

    @property
    def _end(self) -> int:
        return self._fill + (self._start or 0)

    @property
    def count(self) -> int:
        """Samples up to the last one that was put in its place."""
        return min(max(self._end - self._fill, 0), len(self._samples))

    def add(self, at: int, pairs: np.ndarray, in_a_row: bool) -> None:
        """Put (n, 2) samples at sample `at`, or, if that is near or `in_a_row`, right behind the piece before."""
        late = at - self._end
        jumps = self._start is None or (abs(late) > MOST_JITTER_S * SAMPLE_RATE and not in_a_row)
        if (at if jumps and late > 0 else self._end) >= len(self._samples):
            self.is_over = True
            return
        if self._start is None or (jumps and late > 0):
            self.gap = max(self.gap, late) if self._start is not None else 0
            self.flush()
            self._start = at
        elif jumps:  # what was there first stays
            pairs = pairs[-late:]
        while len(pairs):
            room = len(self._block) - self._fill
            part, pairs = pairs[:room], pairs[room:]
            self._block[self._fill : self._fill + len(part)] = part
            self._fill += len(part)
            if self._fill == len(self._block):
                self.flush()

    def flush(self) -> None:
        """Mix down what is in the block."""
        if self._start is None:
            return
        pairs, start = self._block[: self._fill], self._start
        if not np.isfinite(pairs).all():
            self.not_numbers = True
            pairs = np.where(np.isfinite(pairs), pairs, 0)
        mixed = pairs.mean(axis=1)
        left, right, both = (float(np.square(part, dtype=np.float64).sum()) for part in (*pairs.T, mixed))
        if both < CANCELLED * max(left, right):
            mixed = pairs[:, 1 if right > 2 * left else 0]  # left, if they are about equal: no jumps between the two
            self.cancelled += len(mixed)
        inside = mixed[max(-start, 0) : max(len(self._samples) - start, 0)]
        first = max(start, 0)
        self._samples[first : first + len(inside)] = inside.clip(-1, 1)
        self._start, self._fill = start + self._fill, 0
