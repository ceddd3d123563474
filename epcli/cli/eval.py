"""`ep eval`: score a model on a set of questions with known answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from epcli.cli.options import OUTPUT, DebugFlag, JsonFlag, option, path_argument, path_option, settings
from epcli.cli.screen import StatusLine
from epcli.config import Resolved
from epcli.errors import EXIT_PARTIAL
from epcli.text import one_line, visible


@settings("look", "answer", "tokens", "machine")
def evaluate(
    questions: Annotated[Path, path_argument("File of questions, or the folder of a published set.", "SET")],
    *,
    limit: Annotated[int | None, option("Ask only the first so many.", "COUNT", min=1, show_default="all")] = None,
    format: Annotated[
        str | None, option("Layout of SET, by a name in docs/questions.md.", "NAME", show_default="found out")
    ] = None,
    media: Annotated[Path | None, path_option("Where the media of a benchmark are, if not in SET.", "FOLDER")] = None,
    out: Annotated[
        Path | None,
        path_option(
            "Write a line of JSONL for each question here; run again to go on where it stopped.", "FILE", OUTPUT
        ),
    ] = None,
    summary: Annotated[
        Path | None, path_option("Write the table here, as Markdown (.md) or .csv.", "FILE", OUTPUT)
    ] = None,
    blind: Annotated[
        bool, option("Ask about another file each: what can be guessed without the clip.", "", "", "--blind")
    ] = False,
    resolved: Resolved,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Score a model's answers on a question set, and compare with the best constant answer.

    SET is a file of questions with answers, or a local copy of a published set:
    WorldSense, Daily-Omni, OmniBench, MUSIC-AVQA, Video-MME, AVUT, AVQA or
    LLaVA-Video. Intervals are 95%, clustered by file. What could not be asked is
    counted as failed, and the exit code is then 3.
    """
    profile = resolved.profile
    from epcli.evals import score, tables
    from epcli.models import catalog
    from epcli.questions import sets

    catalog.check_present(profile.model)
    if summary is not None:
        tables.check_summary_path(summary)
    found = sets.read_set(questions, format, media)
    status = StatusLine()
    total = min(len(found.questions), limit or len(found.questions))

    def progress(row: dict[str, Any], done: int) -> None:
        if "error" in row:
            status.clear()
            print(one_line(f"ep: question {row['key']}: {row['error']}"), file=sys.stderr)
        status.show(f"{done} of {total}")

    rows = score.score(found, profile, out, limit=limit, blind=blind, on_row=progress, on_progress=status.loading)
    status.clear()
    constant = score.majority(found.questions[:limit])
    result = score.summary(rows, constant)
    if summary is not None:
        about = score.Run.of(found, profile, blind=blind).about
        tables.write_summary(summary, result, about, constant["all"])
    if json:
        from json import dumps

        print(dumps(result, indent=2))
    else:
        _print(found.title, result, constant["all"])
    if result["failed"]:
        raise typer.Exit(EXIT_PARTIAL)


def _print(title: str, result: dict[str, Any], constant: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from epcli.evals.tables import interval, percent

    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("type", "questions", "right", "95% interval", "constant answer"):
        table.add_column(heading, justify="left" if heading == "type" else "right")

    def row(name: str, entry: dict[str, Any], constant: float | None) -> None:
        table.add_row(name, str(entry["n"]), percent(entry["accuracy"]), interval(entry["ci95"]), percent(constant))

    for kind, entry in result["by_type"].items():
        row(kind, entry, entry["majority"])
    table.add_section()
    row("all", result, constant)
    Console(width=min(Console().width, 100)).print(table)
    shares = ", ".join(
        f"{percent(share)} of {kind}" for kind, share in result["kept_share"].items() if share is not None
    )
    print(f"{visible(title)} · kept: {shares or '-'}")
    if result["failed"]:
        print(f"{result['failed']} failed and are in no figure above", file=sys.stderr)
