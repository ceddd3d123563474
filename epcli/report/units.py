"""Numbers as people read them."""

from __future__ import annotations

import math
import re
import time

_BYTES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def size(n_bytes: float) -> str:
    """Bytes with a decimal unit, as shops and file managers count: 188 MB, 1.5 GB."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def parse_size(text: str) -> int:
    """ "500MB", "1.5 GiB" or "4096" -> bytes. ValueError says what is wrong."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?", text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is not a size; write 500MB or 2GB")
    return int(float(found[1]) * _BYTES[found[2]])


def parse_age(text: str) -> float:
    """ "12h", "30d" or "8w" -> seconds. ValueError says what is wrong."""
    found = re.fullmatch(r"(\d+)\s*([smhdw])", text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is not an age; write 12h, 30d or 8w")
    return float(int(found[1]) * _SECONDS[found[2]])


def ago(moment: float, now: float | None = None) -> str:
    """Seconds since the epoch -> "just now", "5 min ago", "3 h ago", "12 days ago"."""
    passed = (time.time() if now is None else now) - moment
    for unit, seconds in (("days", 86400), ("h", 3600), ("min", 60)):
        if passed >= 2 * seconds or (passed >= seconds and unit != "days"):
            return f"{math.floor(passed / seconds)} {unit} ago"
    return "just now"
