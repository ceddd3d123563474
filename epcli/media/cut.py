"""A stretch of a media file as a file of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from epcli.errors import EpError, MediaError
from epcli.files import whole
from epcli.media.ffmpeg import Deadline, copy_part
from epcli.media.ffmpeg import name as label
from epcli.media.probe import DEFAULT_DEADLINE_S, StreamLayout, inspect
from epcli.text import format_time

# Containers that take a copy of most streams, under their own ending.
_FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ts", ".mts", ".m2ts", ".avi")
_SOUNDS = (".mp3", ".m4a", ".mka", ".wav", ".flac", ".ogg", ".oga", ".opus")
_COPIED = frozenset((*_FILMS, *_SOUNDS))
_LONGEST_STEM = 80  # characters
SHORTEST_S = 1.0


def file_name(path: Path, start_s: float, end_s: float, ending: str) -> str:
    """The name of a part: "yard 0m42-0m47.mp4". Only letters, digits and harmless signs of the file's name stay."""
    stem = "".join(letter if letter.isalnum() or letter in " ._-" else "_" for letter in path.stem)
    stem = stem.strip(" .-")[:_LONGEST_STEM] or "clip"
    times = "-".join(format_time(each).replace(":", "m") for each in (start_s, end_s))
    return f"{stem} {times}{ending}"


def cut(path: Path, start_s: float, end_s: float, folder: Path, *, exact: bool = False, mark: str = "") -> Path:
    """Write [start_s, end_s) seconds of a file into a folder; returns the new file. One that is there already stays.

    `mark` goes into the new file's name, to tell it from that of another file of the same name.

    The streams are copied, so the part may begin a little earlier, where a picture stands for itself. With `exact`,
    and where the container takes no copy, they are encoded again (H.264 and AAC).

    Raises MediaError if the file cannot be read, EpError if the part cannot be written.
    """
    end_s = max(end_s, start_s + SHORTEST_S)
    mark = "".join(f" {each}" for each in (mark, "exact" if exact else "") if each)
    deadline = Deadline(DEFAULT_DEADLINE_S + 20 * (end_s - start_s))
    layout = inspect(path, deadline)
    if layout.info.is_image:
        target = folder / file_name(path, 0.0, 0.0, mark + path.suffix)
        if not target.exists():
            with whole(target) as partial:
                shutil.copyfile(path, partial)
        return target
    suffix = path.suffix.lower()
    if suffix in _COPIED and not exact:
        target = folder / file_name(path, start_s, end_s, mark + suffix)
        try:
            _write(layout, start_s, end_s, target, deadline, ["-c", "copy"])
            return target
        except MediaError:
            pass  # a container that does not take these streams after all
    target = folder / file_name(path, start_s, end_s, mark + (".mp4" if layout.info.has_video else ".m4a"))
    options = ["-c:a", "aac", "-b:a", "128k"]
    if layout.info.has_video:
        options += ["-c:v", "libx264", "-crf", "20", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
        options += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]  # 4:2:0 needs even sides
    _write(layout, start_s, end_s, target, deadline, options)
    return target


def _write(
    layout: StreamLayout, start_s: float, end_s: float, target: Path, deadline: Deadline, options: list[str]
) -> None:
    if target.exists():
        return
    parts = layout.within(start_s, end_s)
    if not parts:
        raise EpError(f"{label(layout.info.path)}: has nothing at {format_time(start_s)}")
    part, start, end = parts[0]
    streams = [*([] if part.video_index is None else [part.video_index]), *part.audio_indices]
    with whole(target) as partial:
        copy_part(layout.info.path, part.demuxer, part.span, start, end - start, streams, partial, deadline, options)
