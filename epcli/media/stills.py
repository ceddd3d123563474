"""Pictures that Pillow reads better than the ffmpegs at hand: animated WebP and AVIF, Targa, transparent AVIF.

Only these, told by their content: Pillow is given the one format that the first bytes show. A Targa file of the
old kind has no mark in it, so its name must say so too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from epcli.errors import MediaError
from epcli.media.ffmpeg import Deadline, name
from epcli.records import MediaInfo

if TYPE_CHECKING:
    from epcli.media.probe import StreamLayout

PILLOW = "pillow"  # stands where ffmpeg's demuxer would
_TARGA_ENDINGS = (".tga", ".icb", ".vda", ".vst")
_TARGA_MARK = b"TRUEVISION-XFILE.\0"  # the last bytes of Targa 2.0
_LEAST_S = 0.1  # how long browsers show a frame that says 0


def describe(path: Path) -> StreamLayout | None:
    """What the file holds; None if it is none of these. Raises MediaError if it is damaged."""
    from epcli.media.pixels import Pixels
    from epcli.media.probe import StreamLayout

    kind = _kind(path)
    if kind is None:
        return None
    with _opened(path, kind) as picture:
        if kind == "AVIF" and picture.mode not in ("RGBA", "LA") and getattr(picture, "n_frames", 1) < 2:
            return None
        width, height = ImageOps.exif_transpose(picture).size
        starts, length = _times(picture)
    info = MediaInfo(path, kind.lower(), 0.0, True, width, height, None, kind.lower(), ())
    layout = StreamLayout(info, PILLOW, 0.0, 0, (), Pixels(width / height), video_tracks=(f"{width}x{height}",))
    if len(starts) > 1:
        info = replace(info, duration_s=length, is_image=False, frame_rate=round(len(starts) / length, 6))
        layout = replace(layout, info=info, times_s=np.array(starts))
    return layout


def frames(
    layout: StreamLayout, times: Sequence[float], size: tuple[int, int], deadline: Deadline
) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB of (width, height) `size`, on white, for each of the ascending times: the frame shown then.

    Raises MediaError if the file is damaged, or past the deadline.
    """
    starts = np.zeros(1) if layout.times_s is None else layout.times_s
    last = (-1, np.empty(0))
    with _opened(layout.info.path, layout.info.container.upper()) as picture:
        for time in times:
            if not deadline.remaining():
                raise deadline.error(layout.info.path)
            number = max(0, int(np.searchsorted(starts, time + 1e-6, side="right")) - 1)
            if number != last[0]:
                picture.seek(number)
                last = (number, _on_white(picture, size))
            yield last[1]


def _on_white(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    coloured = ImageOps.exif_transpose(picture).convert("RGBA")
    paper = Image.new("RGBA", coloured.size, "white")
    paper.alpha_composite(coloured)
    return np.asarray(paper.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def _kind(path: Path) -> str | None:
    """Pillow's name of the format."""
    with open(path, "rb") as file:
        head = file.read(32)
        file.seek(-min(len(_TARGA_MARK), file.seek(0, 2)), 2)
        tail = file.read()
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and head[20] & 2:  # the flag of animation
        return "WEBP"
    if head[4:12] in (b"ftypavif", b"ftypavis") and features.check("avif"):
        return "AVIF"
    if tail == _TARGA_MARK or (path.suffix.lower() in _TARGA_ENDINGS and _may_be_targa(head)):
        return "TGA"
    return None


def _may_be_targa(head: bytes) -> bool:
    """Whether the header makes sense: a known kind of colour map, of picture and of depth, and a size."""
    return (
        len(head) >= 18
        and head[1] in (0, 1)
        and head[2] in (1, 2, 3, 9, 10, 11)
        and head[16] in (1, 8, 15, 16, 24, 32)
        and any(head[12:14])
        and any(head[14:16])
    )


def _times(picture: Image.Image) -> tuple[list[float], float]:
    """When each frame begins, and the length, seconds."""
    starts, time = [], 0.0
    for number in range(getattr(picture, "n_frames", 1)):
        picture.seek(number)
        picture.load()
        starts.append(time)
        time += picture.info.get("duration", 0) / 1000 or _LEAST_S
    return starts, time


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=(kind,)) as picture:
            yield picture
    except Image.DecompressionBombError:
        raise MediaError(f"{name(path)}: the picture is too large; scale it down") from None
    except UnidentifiedImageError:
        raise MediaError(f"{name(path)}: is no {kind} picture that can be read; is it complete?") from None
    except (OSError, ValueError, EOFError, SyntaxError) as problem:
        raise MediaError(f"{name(path)}: the picture is damaged ({problem})") from None
