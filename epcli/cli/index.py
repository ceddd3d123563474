"""`ep index`: what was said, heard, seen and read in the files of a folder, kept for `ep find`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epcli.cli.options import OUTPUT, DebugFlag, JsonFlag, option, path_argument, path_option
from epcli.cli.screen import from_here, redraws
from epcli.errors import EXIT_PARTIAL, EpError, UsageError
from epcli.text import one_line, size, visible_json

if TYPE_CHECKING:
    from epcli.find.build import Build
    from epcli.find.index import Index

RUN = "The run"

IndexFlag = Annotated[
    Path | None,
    path_option("The index.", "FILE", "", "--index", show_default="index.sqlite beside the feature cache"),
]


def index(
    folders: Annotated[
        list[Path] | None, path_argument("Folders to search for media, or files; none: show the index.", "FOLDER...")
    ] = None,
    *,
    watch: Annotated[bool, option("Wait for new files and index them, until Ctrl-C.", "", RUN, "--watch")] = False,
    retry_failed: Annotated[bool, option("Try failed files again.", "", RUN, "--retry-failed")] = False,
    rebuild: Annotated[bool, option("Look at all files again.", "", RUN, "--rebuild")] = False,
    forget: Annotated[
        bool, option("Remove these folders and files from the index instead.", "", RUN, "--forget")
    ] = False,
    include: Annotated[
        list[str] | None,
        option(
            "Only files that match, such as *.mkv or talks/*; may be given several times.",
            "GLOB",
            RUN,
            show_default="all files with a media suffix",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, option("Leave out files and folders that match; may be given several times.", "GLOB", RUN)
    ] = None,
    file: IndexFlag = None,
    json: JsonFlag = False,
    quiet: Annotated[bool, option("Print only errors.", "", OUTPUT, "--quiet", "-q")] = False,
    debug: DebugFlag = False,
) -> None:
    """Look at the files of folders, so that `ep find` finds their moments at once.

    What is done stays done: after an interruption the same command goes on where it stopped. New, changed, moved and
    deleted files are noticed. Exit code 3: some files failed.
    """
    from epcli.batch.jobs import Search
    from epcli.find.build import Build
    from epcli.find.index import Index, default_path

    path = file or default_path()
    if not folders:
        if watch or rebuild or forget or retry_failed:
            raise UsageError("name a folder or file")
        with Index(path, make=False) as known:
            _status(known, json)
        return
    if forget and (watch or rebuild or retry_failed):
        raise UsageError("--forget only removes; give it without --watch, --rebuild and --retry-failed")
    if watch and not any(folder.is_dir() for folder in folders):
        raise UsageError("--watch: give a folder to watch")
    with Index(path, make=not forget) as known, known.damage(), known.writing() as mine:
        if not mine:
            raise EpError(f"{path}: another process is indexing; wait until it has ended, or name another --index")
        if forget:
            _forget(known, folders, json, quiet)
            return
        work = Build(
            known,
            folders,
            Search(tuple(include or ()), tuple(exclude or ())),
            retry_failed=retry_failed,
            rebuild=rebuild,
        )
        found = watch or work.prepare()
        try:
            update(work, quiet=quiet, watch=watch)
        finally:
            if json:
                _print_json(known, **asdict(work.tally))
            elif not quiet and (found or work.tally.gone):
                _summary(work, path)
            elif not quiet:
                where = one_line(", ".join(map(str, folders)))
                print(f"ep: {where}: no media files found; --include takes files of other names", file=sys.stderr)
    if work.tally.failed:
        raise typer.Exit(EXIT_PARTIAL)


def update(work: Build, *, quiet: bool = False, watch: bool = False) -> None:
    """Look at what waits, with progress on standard error; with `watch`, also at what comes.

    The caller holds the index for writing, and has called `work.prepare()` unless it watches.
    """
    if not watch and not work.waiting:
        return
    screen = _Screen(work, quiet, "waiting for new files" if watch else "indexing")
    work.on_file, work.on_progress = screen.file, screen.progress
    wait = _watcher(work) if watch else lambda: False
    if not watch:
        screen.begin()
    with screen.shown():
        work.run(wait)


def _watcher(work: Build) -> Callable[[], bool]:
    """What brings new files; it returns when there are some."""
    from epcli.batch.jobs import find
    from epcli.batch.watch import Watch

    last: set[Path] = set()

    def look() -> list[Path]:
        nonlocal last
        found = find(work.places, work.search)
        if last - set(found) or not last:
            work.notice_gone(found)
        last = set(found)
        return found

    watching = Watch(work, look, lambda files: files)
    work.refill = watching.look
    watching.look()
    return watching.wait


class _Screen:
    """On a terminal a line that moves, and everywhere a line for each failure, on standard error."""

    def __init__(self, work: Build, quiet: bool, idle: str) -> None:
        """`idle`: what the line says while no file is being looked at."""
        self._work, self._quiet, self._idle = work, quiet, idle
        self._moves = redraws() and not quiet
        self._bar: Any = None
        self._row: Any = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self._moves:
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as self._bar:
            self._row = self._bar.add_task(self._idle, total=self._work.waiting)
            try:
                yield
            finally:
                self._bar = None

    def begin(self) -> None:
        """Without a line that moves: say once what takes a while."""
        if not self._quiet and not self._moves:
            print(f"ep: indexing {_files(self._work.waiting)}", file=sys.stderr, flush=True)

    def progress(self, path: Path, done_s: float, total_s: float) -> None:
        """Show how far a file is."""
        if self._bar is not None:
            share = min(done_s / total_s, 1.0) if total_s > 0 else 0.0
            self._show(f"{one_line(path.name)[:40]} {share:.0%}", share)

    def file(self, path: Path, failure: str | None) -> None:
        """A file is done. Print why it failed, if it did."""
        if failure is not None:
            line = one_line(f"ep: {from_here(str(path))}: {failure.removeprefix(f'{path.name}: ')}")
            if self._bar is not None:
                self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                print(line, file=sys.stderr, flush=True)
        if self._bar is not None:
            self._show(self._idle, 0.0)

    def _show(self, words: str, share: float) -> None:
        done = self._work.tally.indexed + self._work.tally.failed
        left = self._work.waiting + (share > 0)
        self._bar.update(self._row, description=words, completed=done, total=done + left)


def _summary(work: Build, path: Path) -> None:
    from epcli.text import format_time

    tally = work.tally
    parts = [f"{_files(tally.indexed)} indexed ({_hours(tally.hours)})"]
    for count, what in ((tally.failed, "failed"), (tally.moved, "moved or copied"), (tally.gone, "gone")):
        if count:
            parts.append(f"{count} {what}")
    if tally.unchanged:
        parts.append(f"{tally.unchanged} from before")
    if begun := work.index.totals().begun:
        parts.append(f"{begun} begun")
    if work.waiting:
        parts.append(f"{work.waiting} left")
    print(f"ep: {', '.join(parts)} in {format_time(tally.seconds)}: {one_line(str(path))}", file=sys.stderr)


def _status(known: Index, json: bool) -> None:
    with known.damage():
        totals = known.totals()
        failures = known.failures()
    if json:
        _print_json(known, failures=[{"path": str(path), "error": why} for path, why in failures])
        return
    rows = {
        "index": one_line(str(known.path)),
        "files": f"{totals.files - totals.failed - totals.gone}, {_hours(totals.hours)}",
        "begun": str(totals.begun),
        "failed": str(totals.failed),
        "gone": str(totals.gone),
        "said and read": f"{totals.lines:,} lines",
        "heard and seen": f"{totals.sightings:,} times",
        "size": size(totals.size_bytes),
    }
    for name, value in rows.items():
        typer.echo(f"{name:14}  {value}")
    for path, why in failures[:20]:
        typer.echo(one_line(f"ep: {from_here(str(path))}: {why.removeprefix(f'{path.name}: ')}"), err=True)
    if len(failures) > 20:
        typer.echo(f"ep: … and {len(failures) - 20} more failed; --json lists all", err=True)


def _forget(known: Index, places: list[Path], json: bool, quiet: bool) -> None:
    count = known.forget(places)
    if not count:
        raise UsageError(f"nothing of {', '.join(map(str, places))} is in the index")
    if json:
        _print_json(known, forgotten=count)
    elif not quiet:
        print(f"ep: {_files(count)} forgotten", file=sys.stderr)


def _print_json(known: Index, **facts: Any) -> None:
    """Facts about a run, and what the index holds."""
    from json import dumps

    totals = {f"total_{name}": value for name, value in asdict(known.totals()).items()}
    print(visible_json(dumps({**facts, **totals, "index": str(known.path)}, indent=2, ensure_ascii=False)))


def _files(count: int) -> str:
    return f"{count} {'file' if count == 1 else 'files'}"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
