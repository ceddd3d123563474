"""`ep eval`: score a model on a set of questions with known answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from epcli.cli.options import ANSWER, LOOK, MACHINE, OUTPUT, TOKENS, DebugFlag, ProfileFlag, setting
from epcli.config import SETTINGS, resolve


def evaluate(
    context: typer.Context,
    questions: Annotated[
        Path,
        typer.Argument(
            help='JSONL of {"media", "question", "accept"}; media relative to it.', metavar="SET", show_default=False
        ),
    ],
    limit: Annotated[
        int | None, typer.Option(help="Ask only the first so many (default: all).", metavar="COUNT", min=1)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write a JSONL line a question here; run again to go on where it stopped.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Ask about another file each: what can be guessed without the clip.")
    ] = False,
    video: Annotated[bool | None, setting("video", LOOK)] = None,
    audio: Annotated[bool | None, setting("audio", LOOK)] = None,
    fps: Annotated[str | None, setting("fps", LOOK, "NUMBER")] = None,
    model: Annotated[str | None, setting("model", ANSWER, "NAME")] = None,
    max_new_tokens: Annotated[str | None, setting("max_new_tokens", ANSWER, "COUNT")] = None,
    keep: Annotated[str | None, setting("keep", TOKENS, "SHARE|auto")] = None,
    budget: Annotated[str | None, setting("budget", TOKENS, "COUNT")] = None,
    selector: Annotated[str | None, setting("selector", TOKENS, "NAME")] = None,
    profile: ProfileFlag = None,
    threads: Annotated[str | None, setting("threads", MACHINE, "COUNT")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT)
    ] = False,
    debug: DebugFlag = False,
) -> None:
    """Score answers on a question set, beside the best constant answer.

    A true answer matches "accept", a regular expression, and not "reject". Intervals are 95%, clustered by file.
    """
    flags = {name: context.params.get(name) for name in SETTINGS}
    resolved = resolve({k: v for k, v in flags.items() if v is not None}, profile)

    from epcli.evals import score

    items = score.read_set(questions, limit)
    asked = score.blind(items) if blind else items
    live = sys.stderr.isatty()

    def progress(row: dict[str, Any], done: int) -> None:
        if "error" in row:
            print(f"ep: {Path(row['media']).name}: {row['error']}", file=sys.stderr)
        if live:
            print(f"\r{done} of {len(items)} answered", end="", file=sys.stderr, flush=True)

    rows = score.run(asked, resolved.profile, out, progress)
    if live:
        print("\r\x1b[2K", end="", file=sys.stderr)
    result = score.summary(rows)
    constant = score.majority(items)
    for kind, entry in result["by_type"].items():
        entry["majority"] = constant.get(kind)
    result["majority"] = constant["all"]
    if json:
        from json import dumps

        print(dumps(result, indent=2))
        return
    _print(result)


def _print(result: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("type", "questions", "right", "95% interval", "constant answer"):
        table.add_column(heading, justify="left" if heading == "type" else "right")

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}%"

    def row(name: str, entry: dict[str, Any]) -> None:
        low, high = entry["ci95"]
        between = "-" if low is None else f"{100 * low:.0f}-{100 * high:.0f}%"
        table.add_row(name, str(entry["n"]), percent(entry["accuracy"]), between, percent(entry["majority"]))

    for kind, entry in result["by_type"].items():
        row(kind, entry)
    table.add_section()
    row("all", result)
    Console(width=min(Console().width, 100)).print(table)
    if result["failed"]:
        print(f"{result['failed']} could not be asked")
