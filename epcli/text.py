"""Text that comes in from people and files, and text, sizes and times as people read and write them."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from epcli.errors import UsageError

LONGEST_QUESTION = 200_000  # characters, some 40,000 tokens: more than any model here reads

_BYTES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TIME = re.compile(r"(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,9}(?:\.\d{1,9})?)", re.ASCII)

# What moves a terminal's cursor, reorders a line or cannot be encoded: control characters but for tab and line feed,
# line and paragraph separators, switches of writing direction, and surrogates, as bytes that are not UTF-8 become.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """Text that cannot steer a terminal, with U+FFFD for what could. Tabs and line feeds stay."""
    return _STEERING.sub("\ufffd", text)


def one_line(text: str) -> str:
    """`visible`, and on a single line."""
    return visible(" ".join(text.split("\n")))


def printable(text: str, instead: str = "") -> str:
    """Text with `instead` for every character that has no shape of its own, line feeds and tabs too."""
    return "".join(letter if letter.isprintable() else instead for letter in text)


def visible_json(text: str) -> str:
    """JSON text that cannot steer a terminal and can be encoded: what could is written as an escape."""
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def well_formed(text: str) -> str:
    """Text that can be encoded: U+FFFD for each surrogate, which stands for a byte that was not UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


def as_question(text: str, what: str = "the question", wanted: str = "what you want to know about the file") -> str:
    """A question as it can be asked: stripped, well formed, without a byte order mark.

    Raises UsageError, which begins with `what`, for one that is empty (say what is `wanted`), far too long, or holds a
    zero byte.
    """
    question = well_formed(text).strip("\ufeff \t\r\n\v\f").strip()
    if not question:
        raise UsageError(f"{what} is empty: say {wanted}")
    if "\0" in question:
        raise UsageError(f"{what} holds a zero byte, so it is not UTF-8 text; save it as UTF-8")
    if len(question) > LONGEST_QUESTION:
        raise UsageError(f"{what} is {len(question):,} characters long; {LONGEST_QUESTION:,} are the most")
    return question


def read_text(path: Path) -> str:
    """A UTF-8 file's text, without a byte order mark. Raises UsageError that says why it cannot be read."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{path}: is UTF-16 text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: line {line} is not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(f"{path}: line {line} holds a zero byte, so it is not UTF-8 text; save the file as UTF-8")
    return text


def singular(word: str) -> str:
    """An English word without the ending of plural or possession: puppies -> puppy. Good enough to compare words."""
    word = word.removesuffix("'s").removesuffix("’s")
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def did_you_mean(word: Any, known: Iterable[str], cutoff: float = 0.6) -> str:
    """ ", did you mean keep?" for the end of a message; nothing if nothing is close."""
    close = get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return f", did you mean {close[0]}?" if close else ""


def parse_time(text: str) -> float:
    """Seconds of "SS", "MM:SS" or "HH:MM:SS", each with an optional decimal fraction of the seconds.

    A part behind a colon stays below 60: "1:75" is more often a slip than 2:15. Raises UsageError for anything else.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a time; write seconds (90), minutes (1:30) or hours (0:01:30.5)")
    hours, minutes, seconds = match.groups()
    if (minutes and float(seconds) >= 60) or (hours and int(minutes) >= 60):
        raise UsageError(f"{text!r} is not a time: after a colon there are fewer than 60")
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)


def format_time(seconds: float) -> str:
    """90 -> "1:30", 3661.25 -> "1:01:01.2": whole seconds, or tenths where there are any. Not for negative times."""
    tenths = round(seconds * 10)
    whole, tenth = divmod(tenths, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    head = f"{hours}:{minute:02d}" if hours else f"{minute}"
    return f"{head}:{second:02d}" + (f".{tenth}" if tenth else "")


def format_range(start: float, end: float) -> str:
    """Two times in seconds -> "0:12–0:14.5"."""
    return f"{format_time(start)}–{format_time(end)}"


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
    found = re.fullmatch(r"(\d{1,9})\s*([smhdw])", text.strip().lower())
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
