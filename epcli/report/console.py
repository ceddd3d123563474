"""The figures of a run for people: a few lines on stderr, 80 columns wide, the same with and without colour."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from epcli.records import Report
from epcli.text import format_range, one_line, size, visible

STYLES = {"video": "cyan", "audio": "yellow"}


def print_report(report: Report, console: Console | None = None) -> None:
    """Warnings, one line each, then the figures; on stderr unless a console is given."""
    console = console or _stderr()
    for warning in report.warnings:
        # soft_wrap: one line a warning, whatever the width, so that a script can find it
        line = visible(" ".join(warning.splitlines()))
        console.print(Text.assemble(("ep: warning: ", "yellow"), line), soft_wrap=True)
    console.print(render(report))


def _stderr() -> Console:
    # Without colour there shall be no bold either: a plain log is what NO_COLOR is mostly set for.
    return Console(stderr=True, highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")


def render(report: Report) -> RenderableType:
    """The figures: what was looked at, tokens by modality, speed and memory, and beside them seconds by stage."""
    columns = Table.grid(padding=(0, 6, 0, 0))
    columns.add_row(Group(_tokens(report), "", _speed(report)), _stages(report))
    profile = report.profile and f"profile {report.profile.name}: {report.profile.why}"
    chosen = [Text(f" {profile}", style="dim")] if profile else []
    return Group("", _heading(report), *chosen, "", columns, *choice_lines(report), *evidence_lines(report))


def choice_lines(report: Report) -> list[Text]:
    """How likely each choice is, the likeliest first; nothing if the answer was free."""
    if report.choices is None:
        return []
    ranked = sorted(report.choices, key=lambda choice: -choice.probability)
    return [
        Text("\n probability of each choice"),
        *(Text(f"  {c.probability:6.1%}  {visible(c.text)}") for c in ranked),
    ]


def evidence_lines(report: Report) -> list[Text]:
    """What carried the answer, a moment a line; nothing if that was not asked for."""
    if report.evidence is None:
        return []
    lines = [
        Text.assemble(f"   {moment.share:4.0%}  ", (one_line(moment.label), STYLES[moment.modality]))
        for moment in report.evidence.moments
    ]
    return [Text("\n what carried the answer"), *(lines or [Text("   nothing stands out", style="dim")])]


def _heading(report: Report) -> RenderableType:
    media = report.media
    start, end = media.range_s
    facts = [visible(Path(media.path).name)]
    if end > start:
        facts.append(format_range(start, end))
    if media.frames:
        facts.append(f"{media.frames} frame{'s' * (media.frames > 1)}")
    facts += [report.model, f"{report.device} {report.dtype}"]
    if report.selector != "none":
        facts.append(f"selector {report.selector}")
    return Padding(Text(" · ".join(facts), style="dim"), (0, 0, 0, 1), expand=False)


def _tokens(report: Report) -> Table:
    mean = report.tokens.mean_kept if report.tokens.leaves_inside else None
    table = _table("tokens", "total", "kept", "share", *["over layers"] * (mean is not None))
    for modality in ("video", "audio", "text"):
        count = report.tokens.of(modality)
        row = [f"{count.total:,}", f"{count.kept:,}", _share(count.kept, count.total)]
        if mean is not None:
            row.append(_share(getattr(mean, modality, count.kept), count.total))
        table.add_row(modality, *row)
    return table


def _share(count: float, total: int) -> str:
    return f"{count / total:.1%}" if total else "–"


def _stages(report: Report) -> Table:
    table = _table("stage", "seconds")
    for stage, seconds in asdict(report.timings_s).items():
        if seconds or stage == "total":
            table.add_row(stage, f"{seconds:.2f}", style="bold" if stage == "total" else "")
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=True, header_style="bold cyan")
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _speed(report: Report) -> Table:
    table = Table(box=None, show_header=False, pad_edge=True)
    table.add_row("first token after", f"{report.speed.first_token_s:.2f} s")
    if report.choices is None:
        table.add_row("then", f"{report.speed.decode_tokens_per_s:.1f} tokens/s, {report.generated_tokens} in all")
    table.add_row("peak memory", size(report.memory.peak_rss_bytes))
    if (on_device := report.memory.peak_device_bytes) is not None:
        table.add_row(f"peak on {report.device}", size(on_device))
    return table
