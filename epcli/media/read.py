"""A media file and a time range -> one `Clip`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from epcli.errors import MediaError, UsageError
from epcli.media import decode
from epcli.media.ffmpeg import Deadline, name
from epcli.media.probe import COUNT_ANEW, DEFAULT_DEADLINE_S, StreamLayout, inspect
from epcli.media.sampling import FramePick, fit_size, frame_count, pick_frames, with_room
from epcli.records import SAMPLE_RATE, Clip, MediaInfo, Sampling
from epcli.text import format_time

DAY_S = 86_400.0
END_SLACK_S = 0.1  # an end this far behind the file's needs no warning: containers round
SILENCE_PEAK = 1e-3  # -60 dBFS; sound that never gets this loud is silent: hiss of tape, 16-bit dither (-86 dBFS)
LONG_GAP_S = 60.0  # a gap in the sound that is longer is told: the clock may be wrong
UNCOVERED_S = 0.5  # a part without picture or sound longer than this, in a file that has both, is told


def read(
    path: Path | str,
    sampling: Sampling,
    start_s: float | None = None,
    end_s: float | None = None,
    deadline_s: float | None = None,
) -> Clip:
    """Decode sampled frames and the sound of [start_s, end_s), by default of the whole file.

    Frames: the range is cut into round(length * fps) equal intervals (at least one, at most max_frames), each shown by
    the frame on screen at its centre, or, where more than a few intervals are wider than the keyframe distance, by a
    keyframe of it.
    `frame_times_s` tells the time of each, no matter which was chosen; a picture that stays on screen (a slide) stands
    in each interval it covers, at the interval's start. Intervals in which the file shows nothing have no frame.

    Sound: of the chosen track from the start of the range, as long as the track goes on; None if the file has none.

    `deadline_s` bounds the whole call; by default ten minutes and the range's length. Raises MediaError for what cannot
    be read or lacks what was asked for, UsageError for a range or sampling that makes no sense, CapacityError for more
    sound than memory holds.
    """
    path = Path(path)
    if sampling.fps <= 0 or sampling.max_frames < 1:
        raise UsageError(f"fps {sampling.fps:g} and max_frames {sampling.max_frames} must be above zero")
    if not (sampling.video or sampling.audio):
        raise UsageError("picture and sound are both switched off, so there is nothing to read")
    deadline = Deadline(DEFAULT_DEADLINE_S if deadline_s is None else deadline_s)
    layout = inspect(path, deadline, sampling.video_track if sampling.video else None)
    info, warnings = layout.info, list(layout.warnings)
    start, end = _range(layout, start_s, end_s, warnings)
    if deadline_s is None:
        deadline = Deadline(DEFAULT_DEADLINE_S + min(end - start, DAY_S))  # a broken header may claim any length
    track = layout.default_track if sampling.audio_track is None else sampling.audio_track
    _check_wanted(layout, sampling, track)
    warnings += _which_tracks(layout, sampling, track)
    seen, heard, messages = _parts(layout, with_room(sampling, info, end - start), start, end, deadline)
    warnings += messages
    pictures = np.concatenate([each for each, _ in seen]) if len(seen) > 1 else seen[0][0] if seen else None
    times = np.concatenate([each for _, each in seen]) if seen else None
    samples = _in_place(heard)
    if pictures is None and samples is None:
        raise MediaError(f"{name(path)}: nothing is seen or heard from {format_time(start)} to {format_time(end)}")
    silent = samples is not None and is_silent(samples)
    if silent:
        warnings.append(f"{name(path)}: the sound is silent{_from_to(layout, start, end)}")
    return Clip(info, (start, end), pictures, times, samples, tuple(dict.fromkeys(warnings)), silent)


def _check_wanted(layout: StreamLayout, sampling: Sampling, track: int) -> None:
    """Raises MediaError if the file lacks the sound track, or has neither a picture nor sound that is wanted."""
    info, tracks = layout.info, len(layout.info.audio_tracks)
    if sampling.audio and not 0 <= track < max(1, tracks):
        raise MediaError(
            f"{name(info.path)}: has no audio track {track}; it has {tracks}"
            + (f", numbered 0 to {tracks - 1}" if tracks else "")
        )
    if not (sampling.video and info.has_video) and not (sampling.audio and info.has_audio):
        has, other = ("picture", "sound") if info.has_video else ("sound", "picture")
        raise MediaError(f"{name(info.path)}: has {has} but no {other}, and {has} is switched off")


def _which_tracks(layout: StreamLayout, sampling: Sampling, track: int) -> list[str]:
    """Where the file has several tracks: which of them is read, and how to choose another."""
    info, said = layout.info, []
    if sampling.video and len(layout.video_tracks) > 1:
        number = layout.video_track
        said.append(
            f"{name(info.path)}: has {len(layout.video_tracks)} video tracks; looking at track {number} "
            f"({layout.video_tracks[number]}), --video-track chooses another"
        )
    if sampling.audio and len(info.audio_tracks) > 1 and sampling.audio_track is None:
        said.append(
            f"{name(info.path)}: has {len(info.audio_tracks)} audio tracks; listening to track "
            f"{_named(info, track)}, --audio-track chooses another"
        )
    return said


def _parts(
    layout: StreamLayout, sampling: Sampling, start: float, end: float, deadline: Deadline
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[tuple[float, np.ndarray]], list[str]]:
    """The range, from each recording of a file that is made of several, else from the one.

    Returns pictures with their times, sounds with the seconds at which they begin, both from the start of the range;
    and warnings.
    """
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    heard: list[tuple[float, np.ndarray]] = []
    warnings: list[str] = []
    done = 0.0
    for part, low, high in layout.within(start, end):
        how = _share(sampling, end - start, done, high - low) if layout.parts else sampling
        track = part.default_track if sampling.audio_track is None else sampling.audio_track
        try:
            if sampling.video and part.info.has_video and how.max_frames:
                pictures, times = _frames(part, how, low, high, deadline, warnings)
                if pictures is not None and times is not None:
                    seen.append((pictures, times + done))
            if sampling.audio and track < len(part.info.audio_tracks):
                sound = _samples(part, track, low, high, deadline, warnings)
                if sound is not None:
                    heard.append((done, sound))
        except MediaError as problem:
            if not layout.parts or not deadline.remaining():
                raise
            warnings.append(str(problem))
        done += high - low
    return seen, heard, warnings


def _share(sampling: Sampling, length: float, begin: float, part: float) -> Sampling:
    """The sampling of `part` seconds from `begin` of a range, so that all its parts together have its frames."""
    count = frame_count(length, sampling.fps, sampling.max_frames)
    share = round(count * min(1.0, (begin + part) / length)) - round(count * begin / length)
    return replace(sampling, fps=share / part, max_frames=share)


def _in_place(pieces: list[tuple[float, np.ndarray]]) -> np.ndarray | None:
    """(S,) float32 samples of pieces that begin at these seconds; silence between them. None without any."""
    if not pieces:
        return None
    if len(pieces) == 1 and not pieces[0][0]:
        return pieces[0][1]
    places = [(round(begin * SAMPLE_RATE), piece) for begin, piece in pieces]
    samples = np.zeros(max(start + len(piece) for start, piece in places), np.float32)
    for start, piece in places:
        samples[start : start + len(piece)] = piece
    return samples


def is_silent(samples: np.ndarray) -> bool:
    """Whether nothing of (S,) float32 samples is loud enough to be heard (SILENCE_PEAK). A constant is no sound."""
    return not len(samples) or bool(samples.max() - samples.min() < 2 * SILENCE_PEAK)


def _named(info: MediaInfo, track: int) -> str:
    """A sound track as a person would tell it: number, title, language."""
    about = ", ".join(filter(None, (info.audio_tracks[track].title, info.audio_tracks[track].language)))
    return f"{track} ({about})" if about else str(track)


def _from_to(layout: StreamLayout, start: float, end: float) -> str:
    whole = start <= 0 and end >= layout.info.duration_s
    return "" if whole else f" from {format_time(start)} to {format_time(end)}"


def still_with_sound(picture: Clip, sound: Clip) -> Clip:
    """One clip of two files: a still picture that is shown as long as the sound lasts. Raises MediaError.

    `picture`: of a picture file, or any file's first sampled frame. `sound`: of a file that is heard.
    """
    if picture.frames is None:
        raise MediaError(f"{name(picture.info.path)}: has no picture")
    if sound.samples is None:
        raise MediaError(f"{name(sound.info.path)}: has no sound")
    info = replace(picture.info, duration_s=sound.duration_s, is_image=False, audio_tracks=sound.info.audio_tracks)
    return Clip(
        info,
        (0.0, sound.duration_s),
        picture.frames[:1],
        np.zeros(1),
        sound.samples,
        (*picture.warnings, *sound.warnings),
        sound.silent,
    )


def _range(
    layout: StreamLayout, start_s: float | None, end_s: float | None, warnings: list[str]
) -> tuple[float, float]:
    """The range asked for, within the file. Raises UsageError or MediaError with the file's length."""
    info = layout.info
    label, length = name(info.path), format_time(info.duration_s)
    if info.is_image:
        if start_s is not None or end_s is not None:
            raise UsageError(f"{label}: is a still picture, which has no times; leave out the start and the end")
        return 0.0, 0.0
    start, end = float(start_s or 0.0), info.duration_s if end_s is None else float(end_s)
    if not start >= 0:
        raise UsageError(f"{label}: a start of {start:g} s is before the file begins; the file is {length} long")
    if start >= info.duration_s:
        raise MediaError(f"{label}: a start at {format_time(start)} is past the end; the file is {length} long")
    if not end > start:
        raise UsageError(
            f"{label}: the range ends ({end:g} s) before it starts ({start:g} s); the file is {length} long"
        )
    if end > info.duration_s + END_SLACK_S and end_s is not None:
        warnings.append(f"{label}: the end {format_time(end)} is past the file's; using its end, {length}")
    return start, min(end, info.duration_s)


def _frames(
    layout: StreamLayout,
    sampling: Sampling,
    start: float,
    end: float,
    deadline: Deadline,
    warnings: list[str],
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(N, H, W, 3) uint8 frames and their (N,) times from the start of the range; None, None if it shows nothing."""
    label, origin = name(layout.info.path), layout.origin_s
    size = fit_size(layout.info.width, layout.info.height, sampling.max_pixels, sampling.multiple)
    count = 1
    if layout.info.is_image:
        picks = [FramePick(origin, origin, float("inf"))]
    else:
        count = frame_count(end - start, sampling.fps, sampling.max_frames)
        picks = pick_frames(layout, origin + start, origin + end, count, deadline)
    if not picks:
        warnings.append(f"{label}: shows no picture from {format_time(start)} to {format_time(end)}")
        return None, None
    found, damage = decode.frames(layout, picks, size, deadline)
    pictures: list[np.ndarray] = []
    times: list[float] = []
    bars = 0
    for pick in picks:
        if pick in found:
            stamp, picture, boxed = found[pick]
            time = max(stamp, pick.low_s) - origin - start
            if not times or time > times[-1]:
                pictures.append(picture)
                times.append(time)
                bars += boxed
    if not pictures:
        why = [*damage, *(message.removeprefix(f"{label}: ") for message in layout.warnings), "ffmpeg gave none"][0]
        raise MediaError(f"{label}: no picture could be decoded ({why})")
    if bars:
        warnings.append(
            f"{label}: the picture changes its shape; {bars} of {len(pictures)} frames stand between black bars"
        )
    lost = sum(pick.is_known and pick not in found for pick in picks)
    uncovered = (end - start) * (1 - (len(pictures) + lost) / count)
    if uncovered > UNCOVERED_S:
        warnings.append(f"{label}: {uncovered:.1f} s of the range have no picture")
    if lost:
        warnings.append(f"{label}: {lost} of {len(picks)} pictures could not be decoded; is the file damaged?")
    elif damage and not layout.warnings:  # not again, if it is known to be cut off
        warnings.append(f"{label}: the picture is damaged in places ({damage[0]})")
    return np.stack(pictures), np.array(times, np.float64)


def _samples(
    layout: StreamLayout, track: int, start: float, end: float, deadline: Deadline, warnings: list[str]
) -> np.ndarray | None:
    """(S,) float32 samples; None if the track is over before the range or starts after it."""
    label = name(layout.info.path)
    heard = decode.sound(layout, track, layout.origin_s + start, layout.origin_s + end, deadline)
    samples, damage = heard.samples, heard.damage
    if not len(samples):
        if damage:
            raise MediaError(f"{label}: no sound could be decoded ({damage[0]})")
        warnings.append(f"{label}: audio track {track} has no sound from {format_time(start)} to {format_time(end)}")
        return None
    uncovered = end - start - len(samples) / SAMPLE_RATE
    if uncovered > UNCOVERED_S:
        warnings.append(f"{label}: the sound ends {uncovered:.1f} s before the range does")
    if damage and not layout.warnings:
        warnings.append(f"{label}: the sound is damaged in places ({damage[0]})")
    if heard.gap_s > LONG_GAP_S:
        stops = f"{label}: the sound stops for {format_time(heard.gap_s)} in the middle"
        warnings.append(f"{stops}; if its time stamps are wrong, {COUNT_ANEW}")
    if heard.not_numbers:
        warnings.append(f"{label}: some samples are not numbers (NaN or infinite); they are read as zero")
    if heard.cancelled_s:
        warnings.append(
            f"{label}: left and right cancel out in {heard.cancelled_s:.1f} s of the sound; "
            "only the louder of the two is heard there"
        )
    return samples
