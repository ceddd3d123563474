"""An inspection in a terminal: 80 columns, the same with and without colour."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from epcli.records import Inspection, InspectionRun
from epcli.report import figures
from epcli.report.console import STYLES, evidence_lines
from epcli.report.console import render as render_report
from epcli.session.moments import things
from epcli.text import format_range, format_time, one_line, size, visible

BARS = " ▁▂▃▄▅▆▇█"
ASCII_BARS = " .:-=+*%#"
LABEL = 9  # columns of a row's name
GRIDS = 4  # frames drawn
NAMES = 12  # observations listed, those of which most was kept
LONGEST_NAME = 28  # letters


def print_inspection(inspection: Inspection, console: Console, *, grids: bool = True) -> None:
    """Everything but the single tokens. `grids`: also draw the kept cells of the frames that matter most."""
    for warning in dict.fromkeys(warning for run in inspection.runs for warning in run.report.warnings):
        console.print(Text.assemble((" note: ", "yellow"), visible(warning)), soft_wrap=True)
    console.print(Group(*_all(inspection, console, grids)))


def _all(inspection: Inspection, console: Console, grids: bool) -> Iterator[RenderableType]:
    yield from _file(inspection)
    runs = inspection.runs
    if len(runs) > 1:
        yield from _comparison(inspection)
    for name, run in zip(figures.run_names(runs), runs, strict=True):
        if len(runs) > 1:
            yield Text(f"\n ── {visible(name)}", style="bold")
        else:
            yield Text(f"\n {visible(run.report.question)}", style="bold")
        yield Padding(Text(visible(run.report.answer) or "(no answer)"), (0, 1))
        if len(runs) == 1:
            yield render_report(run.report)
        yield _memory(inspection, run)
        yield from _timeline(inspection, run, console)
        yield from _observed(inspection, run)
        if len(runs) > 1:  # of a single run its figures tell it
            yield from evidence_lines(run.report)
        if grids:
            yield from (_sights if inspection.tokens.observed else _grids)(inspection, run, console)


def _file(inspection: Inspection) -> Iterator[RenderableType]:
    info, (start, end) = inspection.info, inspection.range_s
    when = f" · {format_range(start, end)} of {format_time(info.duration_s)}" if end > start else ""
    yield Text(f"\n {visible(info.path.name)}{when}", style="bold")
    table = Table.grid(padding=(0, 2))
    for stream in figures.streams(inspection):
        table.add_row(" " + stream["kind"], Text(figures.stream_words(stream)))  # never markup: a title may be "[/]"
    yield table
    rows, columns = inspection.tokens.grid
    if inspection.tokens.observed:
        frames, seen = inspection.runs[0].report.media.frames, len(things(inspection.tokens))
        yield Text(f" looked at {_count(frames, 'frame')}, {_count(seen, 'observation')} in all", style="dim")
    elif inspection.preview.times_s is not None and rows:
        grids, frames = len(inspection.preview.times_s), inspection.runs[0].report.media.frames
        said = _count(frames, "frame")
        if frames > grids:  # two frames make one grid of cells
            said, each = f"{said} in {_count(grids, 'pair')}", "a pair"
        else:
            each = "each"
        yield Text(f" looked at {said}, {rows} x {columns} cells {each}", style="dim")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _memory(inspection: Inspection, run: InspectionRun) -> RenderableType:
    report, planned = run.report, inspection.plan.peak_bytes
    used = report.memory.peak_device_bytes or report.memory.peak_rss_bytes
    return Text(f"\n memory foreseen {size(planned)}, used {size(used)}", style="dim")


def _timeline(inspection: Inspection, run: InspectionRun, console: Console) -> Iterator[RenderableType]:
    start, end = inspection.range_s
    if end <= start:
        return
    columns = max(20, min(console.width, 120) - LABEL - 3)
    bars = ASCII_BARS if console.options.ascii_only else BARS
    yield Text("\n kept over time")
    yield Text(" " * (LABEL + 1) + ruler(start, end, columns), style="dim")
    for modality in figures.modalities(inspection.tokens):
        name = modality.name.lower()
        shares = figures.share_over_time(inspection.tokens, run.kept, modality, inspection.range_s, columns)
        row = "".join(" " if math.isnan(share) else bar(share, bars) for share in shares.tolist())
        count = run.report.tokens.of(name)
        yield Text.assemble(f" {figures.WORDS[name]:{LABEL}}", (row, STYLES[name]))
        yield Text(f"{'':{LABEL + 1}}{count.kept:,} of {count.total:,} tokens kept", style="dim")
    if line := figures.leaving(run):
        yield Text(f"{'':{LABEL + 1}}{line}", style="dim")
    yield Text(f"{'':{LABEL + 1}}a column is {(end - start) / columns:.2g} s; {bars[-1]} all kept, · none", style="dim")


def bar(share: float, bars: str = BARS) -> str:
    """A share as a bar of eighths; a dot for nothing, and never nothing for something."""
    return "·" if share <= 0 and bars is BARS else bars[max(1 if share > 0 else 0, round(share * 8))]


def ruler(start: float, end: float, columns: int) -> str:
    """Times written where they are on a line of so many columns."""
    steps = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
    per_label = columns / 9
    step = next((s for s in steps if (end - start) / s <= per_label), steps[-1])
    line = [" "] * columns
    time = math.ceil(start / step - 1e-9) * step
    while time < end:
        at, text = int((time - start) / (end - start) * columns), format_time(time)
        if at + len(text) <= columns:
            line[at : at + len(text)] = text
        time += step
    return "".join(line).rstrip()


def _observed(inspection: Inspection, run: InspectionRun) -> Iterator[RenderableType]:
    """What has a name, and how much of it was kept: most first."""
    named = [(figures.kept_of(each.places, run.kept), each) for each in figures.observed(inspection.tokens)]
    if not named:
        return
    named.sort(key=lambda pair: (-pair[0], -len(pair[1].places)))
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(max_width=LONGEST_NAME, no_wrap=True, overflow="ellipsis")
    for kept, each in named[:NAMES]:
        name = Text(one_line(each.name), style=STYLES[each.modality.name.lower()] if kept else "dim")
        kind = figures.WORDS[each.modality.name.lower()]
        table.add_row(name, kind, each.when, Text(f"{kept:,} of {len(each.places):,}", justify="right"))
    yield Text("\n observed, and how many of its tokens were kept")
    yield Padding(table, (0, 0, 0, 3))
    if rest := named[NAMES:]:
        kept, tokens = sum(kept for kept, _ in rest), sum(len(each.places) for _, each in rest)
        yield Text(f"   and {len(rest):,} more: {kept:,} of {tokens:,}", style="dim")


def _sights(inspection: Inspection, run: InspectionRun, console: Console) -> Iterator[RenderableType]:
    """What was observed in the frames that matter most."""
    chosen = figures.decisive_frames(inspection.tokens, run, GRIDS)
    if not chosen or inspection.preview.times_s is None:
        return
    timed = inspection.range_s[1] > inspection.range_s[0]
    table = Table.grid(padding=(0, 2, 0, 0))
    for frame in chosen:
        names = Text()
        for each in figures.sighted(inspection.tokens, frame):
            told = one_line(f"{each.name or 'unnamed'} {each.where}".strip())
            kept = figures.kept_of(each.places, run.kept)
            names.append(" · " * bool(names)).append(told if kept else f"({told})", style="cyan" if kept else "dim")
        table.add_row(format_time(round(float(inspection.preview.times_s[frame]), 1)) if timed else "", names)
    yield Text("\n frames that matter most (in brackets: dropped)")
    yield Padding(table, (0, 0, 0, 3))


def _grids(inspection: Inspection, run: InspectionRun, console: Console) -> Iterator[RenderableType]:
    tokens = inspection.tokens
    chosen = figures.decisive_frames(tokens, run, GRIDS)
    if not chosen or inspection.preview.times_s is None:
        return
    full, empty = ("#", ".") if console.options.ascii_only else ("█", "·")
    wide = tokens.grid[1] * 2 <= 16  # a cell is about twice as high as wide in a terminal
    blocks = []
    for frame in chosen:
        grid = figures.frame_grid(tokens, run.kept, frame)
        timed = inspection.range_s[1] > inspection.range_s[0]
        when = format_time(round(float(inspection.preview.times_s[frame]), 1)) + "  " if timed else ""
        lines = [f"{when}{int(grid.sum())} of {grid.size}"]
        lines += ["".join((full if cell else empty) * (2 if wide else 1) for cell in row) for row in grid.tolist()]
        blocks.append(lines)
    width = max(len(line) for lines in blocks for line in lines) + 3
    fits = max(1, (console.width - 3) // width)
    yield Text(f"\n frames that matter most ({full} kept, {empty} dropped)")
    for first in range(0, len(blocks), fits):
        row = blocks[first : first + fits]
        for parts in zip(*row, strict=True):
            yield Text("   " + "".join(part.ljust(width) for part in parts).rstrip(), style="cyan")
        if first + fits < len(blocks):
            yield Text("")


def _comparison(inspection: Inspection) -> Iterator[RenderableType]:
    runs = inspection.runs
    table = Table(box=None, pad_edge=True, header_style="bold cyan")
    several, asked = len({run.report.question for run in runs}) > 1, ""
    inside = any(run.report.tokens.leaves_inside for run in runs)
    headings: list[tuple[str, Any]] = [("selector", "left"), ("kept", "right")]
    headings += [("over layers", "right")] * inside
    headings += [(figures.WORDS[m.name.lower()], "right") for m in figures.modalities(inspection.tokens)]
    headings += [("as first", "right"), ("seconds", "right"), ("answer", "left")]
    if several:
        headings.insert(0, ("question", "left"))
    for heading, side in headings:
        table.add_column(heading, justify=side, no_wrap=heading not in ("answer", "question"))
    for run in runs:
        counts, spent = run.report.tokens, run.report.timings_s
        row: list[RenderableType] = [run.report.selector, f"{counts.keep_ratio or 0:.1%}"]
        row += [f"{counts.mean_keep_ratio or 0:.1%}"] * inside
        row += [f"{counts.of(m.name.lower()).kept:,}" for m in figures.modalities(inspection.tokens)]
        seconds = spent.sieve + spent.prefill + spent.decode
        row += [f"{figures.overlap(run, runs[0]):.0%}", f"{seconds:.2f}", Text(visible(run.report.answer))]
        question = "" if run.report.question == asked else visible(asked := run.report.question)
        table.add_row(*([Text(question)] * several), *row)
    yield Text("")
    yield table
    yield Text(" as first: kept by the first line's choice too · seconds: choosing and answering", style="dim")
