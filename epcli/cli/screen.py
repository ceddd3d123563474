"""What commands show on a terminal: a line that changes while they work, the answer as it grows, then the figures."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from epcli.config import PROJECT_FILE, Resolved
from epcli.text import visible

if TYPE_CHECKING:
    from epcli.records import Report


BAR = 30  # columns of the bar while weights load
_STAGES = {
    "cache": "looking into the cache",
    "media": "reading the file",
    "load": "loading the model",
    "vision": "looking",
    "audio": "listening",
    "sieve": "choosing tokens",
    "prefill": "thinking",
    "evidence": "looking for evidence",
}


def redraws() -> bool:
    """Whether standard error is a terminal on which a line may change, in colour."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return sys.stderr.isatty() and not plain


def from_here(path: str) -> str:
    """A path as short as it can be told from the working folder."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


class StatusLine:
    """A line on standard error that changes, where that is a terminal; elsewhere nothing."""

    def __init__(self, wanted: bool = True) -> None:
        self._redraws = wanted and redraws()
        self._shown = False
        self._bar = -1  # cells of the bar that was drawn last

    def show(self, text: str) -> None:
        """Text in place of what the line said."""
        if self._redraws:
            self._shown = True
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()

    def loading(self, share: float) -> None:
        """How much of a model's weights is loaded, 0 to 1, as a bar."""
        if (full := int(share * BAR)) != self._bar:
            self._bar = full
            self.show(f"{_STAGES['load']} {'█' * full}{'░' * (BAR - full)} {share:.0%}")

    def clear(self) -> None:
        """An empty line, for others to write on."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


class Screen:
    """What a person sees: a line on stderr that names the stage, the answer on stdout as it grows, then the figures."""

    def __init__(self, quiet: bool, json: bool) -> None:
        self._quiet, self._json = quiet, json
        self._status = StatusLine(not quiet)
        self._line_open = False  # the answer has begun, and its last line has no end yet

    def say_where_settings_come_from(self, resolved: Resolved) -> None:
        """A settings file in the working folder acts without being named on the command line: say so."""
        keys = [key for key, source in resolved.sources.items() if source.startswith(f"{PROJECT_FILE}: ")]
        if keys and not (self._quiet or self._json):
            print(f"ep: {', '.join(keys)} set by {PROJECT_FILE} in this folder", file=sys.stderr)

    def stage(self, name: str) -> None:
        if not self._line_open:
            self._status.show(f"{_STAGES.get(name, name)} …")

    def progress(self, share: float) -> None:
        """How much of a model's weights is loaded, 0 to 1."""
        if not self._line_open:
            self._status.loading(share)

    def text(self, piece: str) -> None:
        if self._json or not piece:
            return
        self._status.clear()
        self._line_open = True
        sys.stdout.write(visible(piece))
        sys.stdout.flush()

    def close(self) -> None:
        """Leave the cursor at the start of a line, whatever happened."""
        self._status.clear()
        if self._line_open:
            self._line_open = False
            sys.stdout.write("\n")
            sys.stdout.flush()

    def report(self, report: Report) -> None:
        if self._json:
            from epcli.report.json import to_json

            print(to_json(report))
        elif not self._quiet:
            from epcli.report.console import print_report

            print_report(report)


def check_first(media: Path, resolved: Resolved) -> None:
    """Refuse a file or model that cannot be used, before the model libraries take their seconds to load.

    Raises MediaError, UsageError or WeightsError.
    """
    from epcli.media.probe import check_file
    from epcli.models import catalog

    catalog.check_present(resolved.profile.model)
    check_file(media)


@contextmanager
def working(resolved: Resolved, *, quiet: bool, json: bool) -> Iterator[Screen]:
    """The screen of a command while it loads a model and works; it leaves the line clean, whatever happens."""
    screen = Screen(quiet=quiet, json=json)
    screen.say_where_settings_come_from(resolved)
    try:
        yield screen
    finally:
        screen.close()
