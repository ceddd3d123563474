"""Recordings that were joined end to end in one file: `cat a.ts b.ts`, chained Ogg, a clock set anew in mid-stream.

Each has a clock of its own, so that time stamps alone tell neither the length nor the order. The file is cut where the
clock jumps, and each part is read like a file. Looking for the jumps decodes nothing: MPEG-TS and MPEG-PS carry the
sender's clock beside the streams, Ogg marks each beginning, and WAV, AVI, MP4 and Matroska tell where they end.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

_BLOCK = 153_408  # bytes looked at together: whole packets of 188, 192 and 204 bytes
_MOST_BLOCKS = 2000  # of a larger file only these, and what lies between two where the clock jumps
_HERTZ = 90_000
_WRAP = 2**33
_BACK_S = 0.1  # a clock that goes back by more was set anew
_FORWARD_S = 10.0  # and one that goes forward by more from one stamp to the next
_LEAST_BYTES = 1000  # a shorter part holds nothing
_HEADERS = {"wav": b"RIFF", "avi": b"RIFF", "mov": b"ftyp", "matroska": b"\x1a\x45\xdf\xa3"}  # what a file begins with
_MOST_BOXES = 200_000
_PACK = re.compile(rb"\x00\x00\x01\xba(.{5})", re.DOTALL)

Span = tuple[int, int]  # first byte, and the one behind the last


class _Clock(NamedTuple):
    at: int  # byte
    ticks: int  # of 1/90000 s, modulo 2^33
    restart: int  # byte to cut at if the clock was set anew here


def spans(path: Path, demuxer: str) -> list[Span]:
    """The parts of a file, one if it is a single recording. Raises OSError."""
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        if demuxer in _HEADERS:
            cuts = _headers(file, size, demuxer)
        else:
            cuts = _chains(file, size) if demuxer == "ogg" else _jumps(file, size, demuxer)
    edges = [0, *cuts, size]
    return [(low, high) for low, high in pairwise(edges) if high - low >= _LEAST_BYTES]


def is_scrambled(path: Path) -> bool:
    """Whether the first packets of a transport stream say that most of them are encrypted (pay TV). Raises OSError."""
    with open(path, "rb") as file:
        packets = _packets(np.frombuffer(file.read(_BLOCK), np.uint8))[0]
    streams = packets[((packets[:, 1] & 0x1F) > 0) & (packets[:, 3] & 0x10 > 0)]  # no tables, but with something in it
    return len(streams) > 0 and bool((streams[:, 3] & 0xC0 > 0).mean() > 0.5)


def _headers(file: BinaryIO, size: int, demuxer: str) -> list[int]:
    """Where another file begins behind the end of one, as the sizes of its outermost boxes tell."""
    cuts, at = [], 0
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 16:
            break
        kind, length = _box(head, demuxer)
        if at and kind == _HEADERS[demuxer] and (demuxer in ("mov", "matroska") or head[8:12] in (b"WAVE", b"AVI ")):
            cuts.append(at)
        if length is None or length < 8 or at + length >= size:
            break
        at += length
    return cuts


def _box(head: bytes, demuxer: str) -> tuple[bytes, int | None]:
    """Name and length of a RIFF chunk, an MP4 box or a Matroska element; None if it has no end of its own."""
    if demuxer in ("wav", "avi"):
        length = int.from_bytes(head[4:8], "little")
        return head[:4], 8 + length + length % 2
    if demuxer == "mov":
        length = int.from_bytes(head[:4], "big")
        return head[4:8], int.from_bytes(head[8:16], "big") if length == 1 else length or None
    width = 9 - head[4].bit_length()  # of the size, behind a name of four bytes
    length = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
    return head[:4], None if width > 8 or length == (1 << 7 * width) - 1 else 4 + width + length


def _chains(file: BinaryIO, size: int) -> list[int]:
    """Where an Ogg begins anew (RFC 3533): pages that begin streams, behind pages that do not."""
    cuts, at, beginning = [], 0, True
    while at + 27 <= size:
        file.seek(at)
        header = file.read(27 + 255)
        if header[:4] != b"OggS":
            file.seek(at)
            further = file.read(1 << 16).find(b"OggS", 1)  # damaged: go on at the next page
            at += further if further > 0 else (1 << 16) - 3
            continue
        begins = bool(header[5] & 2)
        if begins and not beginning:
            cuts.append(at)
        beginning = begins
        at += 27 + header[26] + sum(header[27 : 27 + header[26]])
    return cuts


def _jumps(file: BinaryIO, size: int, demuxer: str) -> list[int]:
    """Where the clock of MPEG-TS or MPEG-PS jumps."""
    step = max(1, -(-size // _BLOCK // _MOST_BLOCKS)) * _BLOCK
    clocks = _clocks(file, 0, size, step, demuxer)
    if step == _BLOCK:
        return [later.restart for _, later in _apart(clocks, _FORWARD_S)]
    steps = [_seconds(one, two) for one, two in pairwise(clocks) if two.at - one.at > _BLOCK]
    usual = float(np.median(steps)) if steps else 0.0
    return [
        later.restart
        for one, two in _apart(clocks, _FORWARD_S + 20 * usual)
        for _, later in _apart(_clocks(file, one.at // _BLOCK * _BLOCK, two.at + _BLOCK, _BLOCK, demuxer), _FORWARD_S)
    ]


def _seconds(one: _Clock, two: _Clock) -> float:
    """From one stamp to the other, the shorter way round."""
    return ((two.ticks - one.ticks + _WRAP // 2) % _WRAP - _WRAP // 2) / _HERTZ


def _apart(clocks: list[_Clock], forward_s: float) -> list[tuple[_Clock, _Clock]]:
    """Neighbours between which the clock was set anew."""
    pairs = pairwise(clocks)
    return [(one, two) for one, two in pairs if not -_BACK_S <= _seconds(one, two) <= forward_s]


def _clocks(file: BinaryIO, begin: int, end: int, step: int, demuxer: str) -> list[_Clock]:
    """The stamps in the blocks at `begin`, `begin` + `step`, ... in the order of the file."""
    found: list[tuple[int, _Clock]] = []  # program, stamp
    for at in range(begin, end, step):
        file.seek(at)
        data = file.read(_BLOCK)
        found += _of_transport(data, at) if demuxer == "mpegts" else _of_program(data, at)
    programs = Counter(program for program, _ in found)
    main = programs.most_common(1)[0][0] if programs else 0
    return [clock for program, clock in found if program == main]


def _of_program(data: bytes, begin: int) -> list[tuple[int, _Clock]]:
    """Stamps of pack headers: MPEG-2 (ISO 13818-1, 2.5.3.3) or MPEG-1."""
    found = []
    for match in _PACK.finditer(data):
        a, b, c, d, e = match[1]
        if a & 0xC4 == 0x44:
            ticks = (a >> 3 & 7) << 30 | (a & 3) << 28 | b << 20 | (c >> 3) << 15 | (c & 3) << 13 | d << 5 | e >> 3
        elif a & 0xF1 == 0x21:
            ticks = (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1
        else:
            continue
        found.append((0, _Clock(begin + match.start(), ticks, begin + match.start())))
    return found


def _of_transport(data: bytes, begin: int) -> list[tuple[int, _Clock]]:
    """Stamps of adaptation fields (ISO 13818-1, 2.4.3.5), with the streams that carry them."""
    raw = np.frombuffer(data, np.uint8)
    packets, first = _packets(raw)
    size = packets.shape[1]
    numbers = (packets[:, 1].astype(int) & 0x1F) << 8 | packets[:, 2]
    good = packets[:, 0] == 0x47
    stamped = good & (packets[:, 3] & 0x20 > 0) & (packets[:, 4] >= 7) & (packets[:, 5] & 0x10 > 0)
    tables = np.flatnonzero(good & (numbers == 0))  # a recording begins with the table of its programs
    found, before = [], -1
    for row in np.flatnonzero(stamped):
        a, b, c, d, e = (int(value) for value in packets[row, 6:11])
        table = tables[(tables > before) & (tables < row)]
        restart = begin + first + int(table[-1] if len(table) else row) * size
        ticks = a << 25 | b << 17 | c << 9 | d << 1 | e >> 7
        found.append((int(numbers[row]), _Clock(begin + first + int(row) * size, ticks, restart)))
        before = int(row)
    return found


def _packets(raw: np.ndarray) -> tuple[np.ndarray, int]:
    """(P, size) bytes of whole packets, and where the first begins."""
    size, (first, _) = max(((size, _phase(raw, size)) for size in (188, 192, 204)), key=lambda found: found[1][1])
    return raw[first : first + (len(raw) - first) // size * size].reshape(-1, size), first


def _phase(raw: np.ndarray, size: int) -> tuple[int, int]:
    """Where packets of this size begin, and how many of them do begin with the sync byte."""
    rows = len(raw) // size
    if not rows:
        return 0, 0
    hits = (raw[: rows * size].reshape(rows, size) == 0x47).sum(axis=0)
    return int(hits.argmax()), int(hits.max())
