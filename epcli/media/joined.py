"""Recordings that were joined end to end in one file: `cat a.ts b.ts`, chained Ogg, a clock set anew in mid-stream.

Each has a clock of its own, so that time stamps alone tell neither the length nor the order. The file is cut where the
clock jumps, and each part is read like a file. Looking for the jumps decodes nothing: MPEG-TS and MPEG-PS carry the
sender's clock beside the streams, Ogg marks each beginning, formats made of boxes (WAV, MP4, Matroska, ...) tell where
they end, and the others begin with bytes that stand nowhere else (FLAC, FLV, MP3 with a tag, ...).
"""

from __future__ import annotations

import mmap
import os
import re
from collections import Counter
from collections.abc import Iterator
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
_FEW_STAMPS = 5  # there are ten a second
_LEAST_BYTES = 1000  # of MPEG-TS and MPEG-PS: a shorter part holds nothing
_W64, _ASF = bytes.fromhex("726966662e91cf11a5d628db04c10000"), bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_MXF = bytes.fromhex("060e2b34020501010d01020101")  # of a partition; the next byte is 2 if it is the first of a file
_HEADERS = {  # what the first box of a file begins with
    "wav": re.compile(rb"RIFF.{4}WAVE", re.DOTALL),
    "avi": re.compile(rb"RIFF.{4}AVI ", re.DOTALL),
    "aiff": re.compile(rb"FORM.{4}AIF[FC]", re.DOTALL),
    "mov": re.compile(rb".{4}ftyp", re.DOTALL),
    "matroska": re.compile(rb"\x1a\x45\xdf\xa3"),
    "caf": re.compile(b"caff\x00\x01"),
    "au": re.compile(rb"\.snd"),
    "w64": re.compile(re.escape(_W64)),
    "asf": re.compile(re.escape(_ASF)),
    "mxf": re.compile(re.escape(_MXF) + b"\2"),
}
_BEGINNINGS = {  # where no length is told, as to a pipe: fixed first bytes, and what follows them
    "wav": (b"RIFF", re.compile(rb"RIFF.{4}WAVEfmt ", re.DOTALL)),
    "caf": (b"caff", re.compile(b"caff\0\x01\0\0desc")),
    "asf": (_ASF, re.compile(re.escape(_ASF))),
    "matroska": (
        b"\x1a\x45\xdf\xa3",
        re.compile(rb"\x1a\x45\xdf\xa3.{1,8}?\x42\x86\x81.{0,40}?(webm|matroska)", re.DOTALL),
    ),
    "flac": (b"fLaC", re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")),
    "mp3": (b"ID3", re.compile(rb"ID3[\x02-\x04]\x00.([\x00-\x7f]{4})", re.DOTALL)),
    "flv": (b"FLV\1", re.compile(rb"FLV\x01[\x00\x01\x04\x05]\x00\x00\x00\x09\x00{4}")),
    "ivf": (b"DKIF", re.compile(rb"DKIF\x00\x00\x20\x00")),
    "yuv4mpegpipe": (b"YUV4MPEG2 ", re.compile(rb"YUV4MPEG2 [WHFIAC]\d*")),
    "amr": (b"#!AMR", re.compile(rb"#!AMR(-WB)?\n")),
    "wv": (b"wvpk", re.compile(rb"wvpk.{4}[\x02-\x10]\x04.{6}\x00{4}.{4}.[\x08-\x0f\x18-\x1f]", re.DOTALL)),
}
_CLOCKED = ("mpegts", "mpeg")
JOINABLE = frozenset((*_CLOCKED, "ogg", *_HEADERS, *_BEGINNINGS))  # may hold several recordings
_MOST_TAGS = 300  # an MP3 with more was made of short pieces of one sound, of a stream over HTTP
PLACE_HOLDER = 0x7FFF_0000  # bytes: writers to a pipe claim about 2 or 4 GB, or all that the field can say
_COUNTED_BOXES = {"wav": 1, "w64": 1, "asf": 2, "caf": 64}  # those that hold the sound; what follows may be anything
_SLACK = 0.02  # of the claimed bytes may be missing
_MOST_BOXES = 200_000
_PACK = re.compile(rb"\x00\x00\x01\xba(.{5})", re.DOTALL)

Span = tuple[int, int]  # first byte, and the one behind the last


class _Clock(NamedTuple):
    at: int  # byte
    ticks: int  # of 1/90000 s, modulo 2^33
    restart: int  # byte to cut at if the clock was set anew here
    program: int = 0  # stream that carries it


def spans(path: Path, demuxer: str) -> list[Span]:
    """The parts of a file, one if it is a single recording. Raises OSError."""
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        if demuxer in _HEADERS:
            cuts = _headers(file, size, demuxer)
        elif demuxer in _BEGINNINGS:
            cuts = list(_beginnings(file, demuxer))
            cuts = [] if demuxer == "mp3" and len(cuts) > _MOST_TAGS else cuts
        else:
            cuts = _chains(file, size) if demuxer == "ogg" else _jumps(file, size, demuxer)
    edges = [0, *cuts, size]
    least = _LEAST_BYTES if demuxer in _CLOCKED else 1
    return [(low, high) for low, high in pairwise(edges) if high - low >= least]


def is_scrambled(path: Path) -> bool:
    """Whether the first packets of a transport stream say that most of them are encrypted (pay TV). Raises OSError."""
    with open(path, "rb") as file:
        packets = _packets(np.frombuffer(file.read(_BLOCK), np.uint8))[0]
    streams = packets[((packets[:, 1] & 0x1F) > 0) & (packets[:, 3] & 0x10 > 0)]  # no tables, but with something in it
    return len(streams) > 0 and bool((streams[:, 3] & 0xC0 > 0).mean() > 0.5)


def is_cut_off(path: Path, demuxer: str, span: Span | None) -> bool:
    """Whether a recording of WAV, W64, CAF, ASF or MP3, whose length is read off the file, claims more bytes.

    Claims of writers who could not know, those to a pipe, do not count. Raises OSError.
    """
    low, high = span or (0, os.stat(path).st_size)
    claimed = None
    with open(path, "rb") as file:
        if demuxer in _COUNTED_BOXES:
            at = low
            for _ in range(_COUNTED_BOXES[demuxer]):
                file.seek(at)
                head = file.read(64)
                length = _box_length(head, demuxer) if len(head) >= 24 else None
                if length is None or length < 8:
                    break
                at += length
                claimed = at - low
                if head[:4] == b"data":
                    break
        elif demuxer == "mp3":
            file.seek(low)
            claimed = _length_claimed_by_mp3(file)
    return claimed is not None and high - low < claimed * (1 - _SLACK) and claimed < PLACE_HOLDER


def _length_claimed_by_mp3(file: BinaryIO) -> int | None:
    """Bytes of an MP3 with its tag, as its first frame tells (Xing, Info); None if it does not."""
    begin = file.tell()
    found = _BEGINNINGS["mp3"][1].match(file.read(10))
    if found:
        file.seek(begin + 10 + _tag_bytes(found[1]))
    table = re.search(rb"(?:Xing|Info)\0\0\0[\x02-\x0f]", frame := file.read(64 + 10))
    if table is None or not frame[table.end() - 1] & 2:
        return None
    place = table.end() + (4 if frame[table.end() - 1] & 1 else 0)
    return (10 + _tag_bytes(found[1]) if found else 0) + int.from_bytes(frame[place : place + 4], "big")


def _headers(file: BinaryIO, size: int, demuxer: str) -> list[int]:
    """Where another file begins behind the end of one, as the sizes of its outermost boxes tell."""
    cuts, at = [], 0
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(64)
        if len(head) < 16:
            break
        if at and _HEADERS[demuxer].match(head):
            cuts.append(at)
        length = _box_length(head, demuxer)
        if length is None or at + length > size:
            return cuts + [place for place in _beginnings(file, demuxer) if place > at]
        if length < 8:
            break
        at += length
    return cuts


def _box_length(head: bytes, demuxer: str) -> int | None:
    """Bytes of the outermost box that begins with `head`; None if it has no end of its own."""
    match demuxer:
        case "wav" | "avi" | "aiff":
            length = int.from_bytes(head[4:8], "big" if demuxer == "aiff" else "little")
            return 8 + length + length % 2
        case "mov":
            length = int.from_bytes(head[:4], "big")
            return int.from_bytes(head[8:16], "big") if length == 1 else length or None
        case "caf":
            length = int.from_bytes(head[4:12], "big", signed=True)
            return 8 if head.startswith(b"caff") else 12 + length if length >= 0 else None
        case "au":
            return int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")
        case "w64":
            return -(-int.from_bytes(head[16:24], "little") // 8) * 8
        case "asf":
            return int.from_bytes(head[16:24], "little") or None
        case "mxf":
            width = head[16] & 0x7F if head[16] & 0x80 else 0
            if _HEADERS[demuxer].match(head):  # its last partition is where this says, or it was never closed
                footer = 17 + width + 24
                return int.from_bytes(head[footer : footer + 8], "big") or None
            return 17 + width + (int.from_bytes(head[17 : 17 + width], "big") if width else head[16])
        case _:  # Matroska: the width of the length behind a name of four bytes is told by its leading zeros
            width = 9 - head[4].bit_length()
            length = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
            return None if width > 8 or length == (1 << 7 * width) - 1 else 4 + width + length


def _beginnings(file: BinaryIO, demuxer: str) -> Iterator[int]:
    """Where the bytes stand that a file of this format begins with, but for its own beginning."""
    if demuxer not in _BEGINNINGS:
        return
    first, whole = _BEGINNINGS[demuxer]
    own = demuxer != "mp3"  # which need not begin with a tag; the others may have one in front
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(first, 0 if own else 1)
        while at >= 0:
            found = whole.match(data, at)
            if found and (demuxer != "mp3" or _is_before_sound(data, at, found[1])):
                if not own:
                    yield at
                own = False
            at = data.find(first, at + 1)


def _is_before_sound(data: mmap.mmap, at: int, size: bytes) -> bool:
    """Whether a frame of MP3 stands behind the tag (ID3v2) at `at`, whose length has 7 bits in each byte of `size`."""
    end = at + 10 + _tag_bytes(size)
    return data[end : end + 1] == b"\xff" and data[end + 1 : end + 2] >= b"\xe0"


def _tag_bytes(size: bytes) -> int:
    """A number of 7 bits in each of four bytes."""
    a, b, c, d = size
    return a << 21 | b << 14 | c << 7 | d


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
    return [
        (one, two)
        for one, two in pairs
        if one.program != two.program or not -_BACK_S <= _seconds(one, two) <= forward_s
    ]


def _clocks(file: BinaryIO, begin: int, end: int, step: int, demuxer: str) -> list[_Clock]:
    """The stamps in the blocks at `begin`, `begin` + `step`, ... in the order of the file."""
    found: list[_Clock] = []
    for at in range(begin, end, step):
        file.seek(at)
        data = file.read(_BLOCK)
        found += _of_transport(data, at) if demuxer == "mpegts" else _of_program(data, at)
    kept: dict[int, tuple[int, int]] = {}  # program: where its stamps begin and end
    for program, count in Counter(clock.program for clock in found).most_common():
        places = [clock.at for clock in found if clock.program == program]
        # Programs side by side have clocks side by side; one behind the other they are of two recordings.
        if not kept or (
            count >= _FEW_STAMPS and all(places[0] > last or places[-1] < first for first, last in kept.values())
        ):
            kept[program] = places[0], places[-1]
    return [clock for clock in found if clock.program in kept]


def _of_program(data: bytes, begin: int) -> list[_Clock]:
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
        found.append(_Clock(begin + match.start(), ticks, begin + match.start()))
    return found


def _of_transport(data: bytes, begin: int) -> list[_Clock]:
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
        found.append(_Clock(begin + first + int(row) * size, ticks, restart, int(numbers[row])))
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
