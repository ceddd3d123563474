"""`ep ask`: one question about one file."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

from epcli import streams
from epcli.cli.options import (
    OUTPUT,
    DebugFlag,
    EndFlag,
    FormFlags,
    JsonFlag,
    MediaArgument,
    StartFlag,
    argument,
    option,
    settings,
    time_range,
)
from epcli.cli.process import age_s
from epcli.cli.screen import check_first, working
from epcli.config import Resolved
from epcli.text import as_question


@settings("look", "answer", "tokens", "machine")
def ask(
    media: MediaArgument,
    question: Annotated[str, argument("The question; - reads it from standard input.", "QUESTION")],
    *,
    start: StartFlag = None,
    end: EndFlag = None,
    resolved: Resolved,
    form: FormFlags,
    evidence: Annotated[
        bool, option("Also tell the moments that carried the answer.", "", OUTPUT, "--evidence")
    ] = False,
    json: JsonFlag = False,
    quiet: Annotated[bool, option("Print the answer and nothing else.", "", OUTPUT, "--quiet", "-q")] = False,
    debug: DebugFlag = False,
) -> None:
    """Answer a question about a video, sound or picture file.

    The answer goes to standard output while it is written; the figures follow on standard error.
    """
    question = as_question(streams.read_input() if question == "-" else question)
    start_s, end_s = time_range(start, end)
    wanted = form.read()
    streams.check_output()
    check_first(media, resolved)
    with working(resolved, quiet=quiet, json=json) as screen:
        from epcli.compat import import_transformers
        from epcli.session.ahead import read_ahead

        reading = read_ahead(resolved.profile, media, start_s, end_s)
        import_transformers()
        from epcli.session.form import Schema
        from epcli.session.reporting import counted_from  # the model libraries load here
        from epcli.session.session import Session

        session = Session(resolved.profile, screen.stage, screen.progress)
        looked = session.look(media, start_s, end_s, reading=reading)
        # Half of it is no JSON: a program gets it when it is complete, a person sees it grow.
        at_once = isinstance(wanted, Schema) and not sys.stdout.isatty()
        on_text = None if at_once else screen.text
        asked = session.run(looked, question, on_text, with_evidence=evidence, form=wanted)
        if at_once:
            screen.text(asked.report.answer)
        report = counted_from(asked.report, age_s())
    screen.report(replace(report, profile=resolved.chosen()))
