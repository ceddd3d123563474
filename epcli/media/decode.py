"""Pixels and samples out of ffmpeg, through pipes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer

from epcli.errors import CapacityError
from epcli.media.ffmpeg import Deadline, Process, name, read_into, source
from epcli.media.plan import INDEXED, TICK_S, Moment
from epcli.media.probe import Layout
from epcli.records import SAMPLE_RATE

# A gap between two frames longer than this is skipped by seeking, a shorter one is decoded through. Where the two cost
# the same, measured with 64 frames of 10 minutes of noisy 720p30 h264, MP4 and MKV, on 2 busy cores: all frames 51 to
# 95 s in one pass against 32 to 39 s by seeking; keyframes only 4 to 6.5 s against 15 to 17 s.
EXACT_GAP_S = 5.0
KEYFRAME_GAP_S = 25.0
SEEKS_AT_A_TIME = 2
FRAMES_A_RUN = 500  # bounds the length of ffmpeg's command line
RUN_IN_S = 3.0  # decoded ahead of a frame where seeking may land between keyframes
LONG_RUN_IN_S = 30.0  # the same at the second try
SOUND_RUN_IN_S = 1.0  # decoded ahead of a range, for codecs whose first packets after a seek are not yet right


def frames(
    path: Path, layout: Layout, moments: Sequence[Moment], size: tuple[int, int], deadline: Deadline
) -> tuple[dict[Moment, tuple[float, np.ndarray]], list[str]]:
    """Decode each moment's frame: ({moment: (presentation time, (H, W, 3) uint8 RGB)}, messages about damage).

    A frame that cannot be decoded is replaced by the next one of its interval; where there is none, the moment is
    missing from the result. Raises MediaError past the deadline.
    """
    found: dict[Moment, tuple[float, np.ndarray]] = {}
    damage: list[str] = []
    run_in = 0.0 if layout.demuxer in INDEXED else RUN_IN_S
    groups = [
        (group, keyframes, run_in)
        for keyframes, gap in ((True, KEYFRAME_GAP_S), (False, EXACT_GAP_S))
        for group in _groups([moment for moment in moments if moment.is_keyframe is keyframes], gap)
    ]
    _run(path, layout, groups, size, deadline, found, damage)
    # Landed behind the frame (open groups of pictures, a wrong index), or it is no keyframe: come from further off.
    missed = [m for m in moments if m not in found or (m.is_known and found[m][0] > m.at_s + 2 * TICK_S)]
    if missed:
        _run(
            path,
            layout,
            [(group, False, LONG_RUN_IN_S) for group in _groups(missed, EXACT_GAP_S)],
            size,
            deadline,
            found,
            damage,
        )
    return found, damage


def _groups(moments: Sequence[Moment], gap_s: float) -> list[list[Moment]]:
    """Runs of neighbours that one ffmpeg decodes through."""
    groups: list[list[Moment]] = []
    for moment in moments:
        if groups and moment.at_s - groups[-1][-1].at_s <= gap_s and len(groups[-1]) < FRAMES_A_RUN:
            groups[-1].append(moment)
        else:
            groups.append([moment])
    return groups


def _run(
    path: Path,
    layout: Layout,
    groups: list[tuple[list[Moment], bool, float]],
    size: tuple[int, int],
    deadline: Deadline,
    found: dict[Moment, tuple[float, np.ndarray]],
    damage: list[str],
) -> None:
    """Decode groups, two at a time; results are added to `found` and `damage`."""
    pool = ThreadPoolExecutor(SEEKS_AT_A_TIME)
    try:
        jobs = [pool.submit(_decode, path, layout, *group, size, deadline, len(groups) > 1) for group in groups]
        for (moments, _, _), job in zip(groups, jobs, strict=True):
            decoded, messages = job.result()
            damage += messages
            _assign(moments, decoded, found)
    except BaseException:
        deadline.stop()  # an interrupt must not wait for what still runs
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _assign(
    moments: list[Moment], decoded: list[tuple[float, np.ndarray]], found: dict[Moment, tuple[float, np.ndarray]]
) -> None:
    """Give each moment the first frame at or after its time that its interval still reaches."""
    for moment in moments:
        frame = next((item for item in decoded if item[0] >= moment.at_s - TICK_S), None)
        if frame is not None and frame[0] < max(moment.high_s, moment.at_s + TICK_S):
            found[moment] = frame


def _decode(
    path: Path,
    layout: Layout,
    moments: list[Moment],
    keyframes: bool,
    run_in_s: float,
    size: tuple[int, int],
    deadline: Deadline,
    is_seek: bool,
) -> tuple[list[tuple[float, np.ndarray]], list[str]]:
    """One ffmpeg over the moments of a group: [(presentation time, frame)] ascending, and messages about damage."""
    times = sorted({moment.at_s for moment in moments})
    width, height = reversed(size) if layout.turn.swap else size
    options: dict[str, object] = {"noautorotate": None}
    if is_seek:
        options["threads"] = 1
    start = times[0] - run_in_s
    if start > layout.origin_s:
        options |= {"ss": f"{start:.6f}", "noaccurate_seek": None}
    if keyframes:
        # Not `-discard nokey`, though it halves the time on MP4: ffmpeg 5.1 and 9.0 then tell wrong presentation times.
        options |= {"skip_frame": "nokey"}
    # The first frame at or after each time: of the frames after the last chosen one (0), is any time passed?
    passed = "+".join(f"gte(t,{time - TICK_S:.4f})*lt(ld(0),{time - TICK_S:.4f})" for time in times)
    chain = (
        f"select='st(0,if(isnan(prev_selected_t),-1e9,prev_selected_t));{passed}',"
        f"scale={width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int,setsar=1,format=rgb24"
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
    with Process(output, path, deadline) as process:
        try:
            with av.open(process.stdout, format="nut") as pipe:
                assert isinstance(pipe, InputContainer)
                for packet in pipe.demux(video=0):
                    if packet.size and packet.pts is not None and packet.time_base is not None:
                        picture = np.frombuffer(bytes(packet), np.uint8).reshape(height, width, 3)
                        decoded.append((float(packet.pts * packet.time_base), layout.turn.apply(picture)))
        except av.error.FFmpegError:
            pass  # ended without a picture, or was stopped; what that means is for the caller
        process.finish()
        messages = _damage(process, layout, start <= layout.origin_s)
        if not decoded and not messages and process.status:
            messages = [process.reason()]
    return decoded, messages


def _damage(process: Process, layout: Layout, from_start: bool) -> list[str]:
    """The messages about damage; none from a decoder that was started in the middle of anything."""
    return process.damage(from_start) if from_start or layout.demuxer in INDEXED else []


def sound(
    path: Path, layout: Layout, track: int, start_s: float, end_s: float, deadline: Deadline
) -> tuple[np.ndarray, list[str]]:
    """(S,) float32 mono in [-1, 1] at SAMPLE_RATE for [start_s, end_s) (file timestamps), and messages about damage.

    Sample 0 is at start_s: silence where the track starts later or has a gap over 0.1 s. S is less than the range where
    the track ends earlier, 0 if it has nothing in it. Raises MediaError past the deadline, CapacityError if S is huge.
    """
    options = {}
    if start_s - SOUND_RUN_IN_S > layout.origin_s:
        options = {"ss": f"{start_s - SOUND_RUN_IN_S:.6f}", "noaccurate_seek": None}
    chain = (
        f"atrim=start={start_s:.6f}:end={end_s:.6f},asetpts=PTS-{start_s:.6f}/TB,"
        # rematrix_maxval: a downmix keeps to [-1, 1], as it does for integer samples.
        f"aresample={SAMPLE_RATE}:async=1:first_pts=0:rematrix_maxval=1,aformat=sample_fmts=flt:channel_layouts=mono"
    )
    output = source(layout.demuxer, **options)[str(layout.audio_indices[track])].output(
        "pipe:1", format="f32le", acodec="pcm_f32le", af=chain
    )
    try:
        samples = np.zeros(round((end_s - start_s) * SAMPLE_RATE), np.float32)
    except (MemoryError, ValueError):  # a broken header may claim any length
        raise CapacityError(
            f"{name(path)}: {(end_s - start_s) / 3600:.0f} hours of sound do not fit in memory; "
            "ask for a shorter range (--start, --end)"
        ) from None
    with Process(output, path, deadline) as process:
        count = read_into(process.stdout, samples.data.cast("B")) // samples.itemsize
        process.stdout.close()
        process.finish()
        messages = _damage(process, layout, not options)
        if not count and not messages and process.status:
            messages = [process.reason()]
    return np.clip(samples[:count], -1.0, 1.0, out=samples[:count]), messages
