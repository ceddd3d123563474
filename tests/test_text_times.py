"""Times as people write them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from epcli.errors import UsageError
from epcli.text import format_time, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("0", 0.0),
        ("90.25", 90.25),
        ("1:30", 90.0),
        ("01:05.5", 65.5),
        ("75:00", 4500.0),  # the first part may exceed 59
        ("00:01:30.5", 90.5),
        ("2:00:01", 7201.0),
        (" 1:30 ", 90.0),
    ],
)
def test_seconds_minutes_and_hours_are_understood(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "-5",
        "1:-5",
        "1:75",
        "1:75:00",
        "1:2:3:4",
        "1:",
        ":30",
        "1e3",
        "inf",
        "nan",
        "1,5",
        "5s",
        "٣",
        "9" * 5000,
    ],
)
def test_anything_else_is_a_usage_error_that_shows_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (5, "0:05"),
        (90, "1:30"),
        (90.5, "1:30.5"),
        (59.96, "1:00"),  # rounds into the next minute, never to 0:60
        (3599.99, "1:00:00"),
        (3661.26, "1:01:01.3"),
        (36000, "10:00:00"),
    ],
)
def test_times_are_written_with_colons_and_tenths_where_there_are_any(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
    assert parse_time(text) == pytest.approx(seconds, abs=0.05)


def test_times_cost_no_media_library() -> None:
    program = "import sys, epcli.text; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"av", "numpy", "ffmpeg"} & set(run.stdout.split())
