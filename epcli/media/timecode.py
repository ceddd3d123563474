"""Times as people write them: "90", "1:30", "00:01:30.5"."""

from __future__ import annotations

import re

from epcli.errors import UsageError

_TIME = re.compile(r"(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,9}(?:\.\d{1,9})?)", re.ASCII)


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
