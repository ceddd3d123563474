"""What a file holds, named by the SHA-256 of all its bytes, and remembered so that an unchanged file is not read again.

A file is unchanged as long as its size, modification time, change time and inode are: an edit, a copy over it or a
restored modification time alters at least one of them. A file written less than a moment ago is hashed but not
remembered, since a second write in the same tick of the clock would leave the times as they are.

    ${XDG_CACHE_HOME:-~/.cache}/epcli/hashes/    one small JSON a file
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from epcli.config import cache_home

SETTLED_NS = 3_000_000_000  # FAT counts in steps of 2 s
SAMPLE_BYTES = 1 << 16

Stamp = tuple[int, int, int, int]


def stamp(path: Path) -> Stamp:
    """Size, modification and change time (ns) and inode. Raises OSError."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def sha256(path: Path) -> str:
    """SHA-256 of the whole file, in hexadecimal; at once if it is remembered. Raises OSError."""
    return remembered(path, "sha256", _sha256)


def quick(path: Path) -> str:
    """16 hexadecimal digits of the size and of three samples. Raises OSError.

    Files that differ here are different. Files that agree here may still differ, so this only ever rules out.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(str(size).encode())
        for start in (0, max(size - SAMPLE_BYTES, 0) // 2, max(size - SAMPLE_BYTES, 0)):
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def remembered(path: Path, what: str, compute: Callable[[Path], str]) -> str:
    """`compute(path)`, or what it gave for this very file before. Raises OSError, and whatever `compute` does."""
    before, now = stamp(path), time.time_ns()
    subject = f"{what}:{os.path.abspath(path)}".encode(errors="surrogateescape")
    record = memory() / f"{hashlib.sha256(subject).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged, all the same
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["stamp"] == list(before) and isinstance(known["value"], str):
            return str(known["value"])
    value = compute(path)
    if stamp(path) == before and now - max(before[1], before[2]) > SETTLED_NS:
        with suppress(OSError):  # a folder that cannot be written only costs time
            _write(record, {"stamp": before, "value": value})
    return value


def memory() -> Path:
    """The folder of what is remembered; it may not exist yet."""
    return cache_home() / "hashes"


def _write(record: Path, body: dict[str, object]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    temporary = record.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}.part")
    try:
        temporary.write_text(json.dumps(body), encoding="utf-8")
        temporary.replace(record)
    finally:
        temporary.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
