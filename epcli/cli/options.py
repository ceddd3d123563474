"""Flags shared by commands, and flags made from `Profile`'s fields: what they say is written in config.py."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from epcli.config import DEFAULTS, SETTINGS
from epcli.errors import UsageError

LOOK, ANSWER, TOKENS, MACHINE, OUTPUT = "What to look at", "Answer", "Tokens", "Machine", "Output"

# main() looks for --debug among the arguments itself: an error can come before any command has run.
DebugFlag = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error, and what libraries warn about.")
]
ProfileFlag = Annotated[
    str | None,
    typer.Option(
        help="Settings to start from: a name of `ep profiles list` or a YAML file (default: what fits this machine).",
        metavar="NAME|PATH",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
StartFlag = Annotated[
    str | None,
    typer.Option(
        help="Begin here: 90, 1:30 or 0:01:30 (default: the beginning).",
        metavar="TIME",
        rich_help_panel=LOOK,
        show_default=False,
    ),
]
EndFlag = Annotated[
    str | None,
    typer.Option(
        help="Stop here: 90, 1:30 or 0:01:30 (default: the end).",
        metavar="TIME",
        rich_help_panel=LOOK,
        show_default=False,
    ),
]


def setting(name: str, panel: str, metavar: str = "", meaning: str = "") -> Any:
    """The flag of a setting. It stays None unless given; config.py parses and checks the text.

    `meaning`: what it says about itself where it means less, or more, than elsewhere.
    """
    limits, default = SETTINGS[name], DEFAULTS[name]
    meaning = meaning or limits.meaning
    flag = "--" + name.replace("_", "-")
    if bool in limits.types:
        return typer.Option(
            f"{flag}/--no-{name}", help=f"{meaning} (default: yes).", rich_help_panel=panel, show_default=False
        )
    shown = limits.null if default is None else default
    return typer.Option(
        flag,
        help=f"{meaning} (default: {shown}).",
        metavar=metavar or "|".join(limits.choices),
        rich_help_panel=panel,
        show_default=False,
    )


def seconds(flag: str, time: str | None) -> float | None:
    """A time given on the command line. Raises UsageError naming the flag."""
    if time is None:
        return None
    from epcli.media.timecode import parse_time

    try:
        return parse_time(time)
    except UsageError as error:
        raise UsageError(f"{flag}: {error}") from error


def time_range(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    """--start and --end in seconds. Raises UsageError for what is no time, or no range."""
    start_s, end_s = seconds("--start", start), seconds("--end", end)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise UsageError(f"--end {end} is not after {f'--start {start}' if start else 'the beginning'}")
    return start_s, end_s
