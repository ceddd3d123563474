"""Which way up a picture is shown: display matrices of films, EXIF orientation of still pictures.

Read here and applied to the decoded array, because versions of ffmpeg differ in what they turn by themselves: 5.1 turns
JPEG but not PNG, WebP and TIFF by their EXIF data.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from av.sidedata.sidedata import Type

_ORIENTATION_TAG = 0x112  # TIFF 6.0, section 8: Orientation


class Orientation(NamedTuple):
    """How to put a stored picture upright: first swap rows with columns, then mirror."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """(h, w, 3) as stored -> (H, W, 3) upright; H = w and W = h if `swap`. A view."""
        picture = picture.swapaxes(0, 1) if self.swap else picture
        return picture[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


UPRIGHT = Orientation()
_BY_ORIENTATION = {
    2: Orientation(False, True, False),
    3: Orientation(False, True, True),
    4: Orientation(False, False, True),
    5: Orientation(True, False, False),
    6: Orientation(True, True, False),
    7: Orientation(True, True, True),
    8: Orientation(True, False, True),
}
_BY_DEGREES = {90: _BY_ORIENTATION[8], 180: _BY_ORIENTATION[3], 270: _BY_ORIENTATION[6]}  # counter-clockwise


def of_frame(frame: Any) -> Orientation:
    """From a decoded frame's display matrix. Angles between right angles count as the nearer one."""
    try:
        side_data = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV 18 does not know every kind of side data, but still tells the angle
        return _BY_DEGREES.get(round(frame.rotation / 90) * 90 % 360, Orientation())
    if side_data is None:
        return Orientation()
    # x' = a x + c y, y' = b x + d y (libavutil/display.h)
    a, b, _, c, d = struct.unpack("5i", bytes(side_data)[:20])
    return Orientation(True, c < 0, b < 0) if abs(b) > abs(a) else Orientation(False, a < 0, d < 0)


def of_picture_file(path: Path, demuxer: str) -> Orientation:
    """From the EXIF data of a JPEG, PNG, WebP or TIFF file; upright if there are none or they are damaged."""
    finders = {"jpeg_pipe": _in_jpeg, "png_pipe": _in_png, "webp_pipe": _in_webp, "tiff_pipe": lambda file: 0}
    if demuxer not in finders:
        return Orientation()
    try:
        with open(path, "rb") as file:
            base = finders[demuxer](file)
            return Orientation() if base is None else _BY_ORIENTATION.get(_orientation(file, base), Orientation())
    except struct.error:  # the file ends in the middle of a field
        return Orientation()


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _in_jpeg(file: BinaryIO) -> int | None:
    """Where the TIFF structure begins that holds the EXIF data."""
    file.seek(2)
    while True:
        start, kind, length = _unpack(file, ">BBH")
        after = file.tell() + length - 2
        if start != 0xFF or kind in (0xD9, 0xDA) or length < 2:  # end of image, start of the picture data
            return None
        if kind == 0xE1 and file.read(6) == b"Exif\0\0":
            return file.tell()
        file.seek(after)


def _in_png(file: BinaryIO) -> int | None:
    file.seek(8)
    while True:
        length, kind = _unpack(file, ">I4s")
        if kind == b"eXIf":
            return file.tell()
        if kind == b"IEND":
            return None
        file.seek(length + 4, 1)


def _in_webp(file: BinaryIO) -> int | None:
    file.seek(12)
    while True:
        kind, length = _unpack(file, "<4sI")
        if kind == b"EXIF":
            base = file.tell()
            return base + 6 if file.read(6) == b"Exif\0\0" else base
        file.seek(length + length % 2, 1)


def _orientation(file: BinaryIO, base: int) -> int:
    """The tag in the first directory of a TIFF structure; 1 (upright) if it is not there."""
    file.seek(base)
    order = {b"II": "<", b"MM": ">"}.get(file.read(2))
    if order is None:
        return 1
    _, directory = _unpack(file, order + "HI")
    file.seek(base + directory)
    (entries,) = _unpack(file, order + "H")
    for _ in range(entries):
        tag, _, _, value = _unpack(file, order + "HHIH2x")
        if tag == _ORIENTATION_TAG:
            return int(value)
    return 1
