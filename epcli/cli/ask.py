"""`ep ask`: one question about one file."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from epcli import streams
from epcli.cli.options import (
    OUTPUT,
    DebugFlag,
    EndFlag,
    JsonFlag,
    MediaArgument,
    StartFlag,
    argument,
    option,
    settings,
    time_range,
)
from epcli.config import PROJECT_FILE, Resolved
from epcli.text import as_question, visible

if TYPE_CHECKING:
    from epcli.records import Report


@settings("look", "answer", "tokens", "machine")
def ask(
    media: MediaArgument,
    question: Annotated[str, argument("The question; - reads it from standard input.", "QUESTION")],
    *,
    start: StartFlag = None,
    end: EndFlag = None,
    resolved: Resolved,
    evidence: Annotated[
        bool, option("Also tell the moments that carried the answer.", "", OUTPUT, "--evidence")
    ] = False,
    json: JsonFlag = False,
    quiet: Annotated[bool, option("Print the answer and nothing else.", "", OUTPUT, "--quiet", "-q")] = False,
    debug: DebugFlag = False,
) -> None:
    """Answer a question about a video, sound or picture file.

    The answer goes to standard output as it grows; what it took follows on standard error.
    """
    question = as_question(streams.read_input() if question == "-" else question)
    start_s, end_s = time_range(start, end)

    streams.check_output()
    # What would be refused anyway is refused before the model libraries take their seconds to load.
    from epcli.media.probe import check_file
    from epcli.models import catalog

    catalog.check_present(resolved.profile.model)
    check_file(media)

    screen = Screen(quiet=quiet, json=json)
    screen.say_where_settings_come_from(resolved)
    try:
        from epcli.session.session import Session  # the model libraries load here

        session = Session(resolved.profile, screen.stage)
        session.on_progress = screen.progress
        looked = session.look(media, start_s, end_s)
        report = session.ask(looked, question, screen.text, evidence=evidence)
    finally:
        screen.close()
    screen.report(replace(report, profile=resolved.chosen()))


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


class Screen:
    """What a person sees: a line on stderr that names the stage, the answer on stdout as it grows, then the figures."""

    def __init__(self, quiet: bool, json: bool) -> None:
        self._quiet, self._json = quiet, json
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self._shows_stages = sys.stderr.isatty() and not plain and not quiet
        self._stage_shown = False
        self._bar = -1  # cells of the bar that is shown
        self._line_open = False  # the answer has begun, and its last line has no end yet

    def say_where_settings_come_from(self, resolved: Resolved) -> None:
        """A settings file in the working folder acts without being named on the command line: say so."""
        keys = [key for key, source in resolved.sources.items() if source.startswith(f"{PROJECT_FILE}: ")]
        if keys and not (self._quiet or self._json):
            print(f"ep: {', '.join(keys)} set by {PROJECT_FILE} in this folder", file=sys.stderr)

    def stage(self, name: str) -> None:
        if self._shows_stages and not self._line_open:
            self._stage_shown = True
            sys.stderr.write(f"\r\x1b[2K{_STAGES.get(name, name)} …")
            sys.stderr.flush()

    def progress(self, share: float) -> None:
        """How much of a model's weights is loaded, 0 to 1: a bar behind the stage's name."""
        if self._stage_shown and (now := int(share * BAR)) != self._bar:
            self._bar = now
            sys.stderr.write(f"\r\x1b[2K{_STAGES['load']} {'█' * now}{'░' * (BAR - now)} {share:.0%}")
            sys.stderr.flush()

    def text(self, piece: str) -> None:
        if self._json or not piece:
            return
        self._clear_stage()
        self._line_open = True
        sys.stdout.write(visible(piece))
        sys.stdout.flush()

    def close(self) -> None:
        """Leave the cursor at the start of a line, whatever happened."""
        self._clear_stage()
        if self._line_open:
            self._line_open = False
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _clear_stage(self) -> None:
        if self._stage_shown:
            self._stage_shown = False
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

    def report(self, report: Report) -> None:
        if self._json:
            from epcli.report.json import to_json

            print(to_json(report))
        elif not self._quiet:
            from epcli.report.console import print_report

            print_report(report)
