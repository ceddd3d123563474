"""`ep batch`: many files, many questions."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epcli.cli.options import (
    OUTPUT,
    DebugFlag,
    EndFlag,
    StartFlag,
    settings,
    time_range,
)
from epcli.config import Profile, Resolved
from epcli.errors import EXIT_PARTIAL, EpError, UsageError

if TYPE_CHECKING:
    from epcli.batch.jobs import FileJobs
    from epcli.batch.run import Batch, Engine

FILES, ASKING, RUN, MACHINES = "Which files", "What to ask", "The run", "More machines"


@settings("look", "answer", "tokens", "machine")
def batch(
    media: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders to search, or files; none if the questions name them.",
            metavar="FOLDER...",
            show_default=False,
        ),
    ] = None,
    *,
    question: Annotated[
        list[str] | None,
        typer.Option(
            "--question",
            "-Q",
            help="A question about every file; may be given several times.",
            metavar="TEXT",
            rich_help_panel=ASKING,
            show_default=False,
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="A file of questions: a line each, or JSONL or CSV with question and media.",
            metavar="FILE",
            rich_help_panel=ASKING,
            show_default=False,
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Only files like this, *.mkv or talks/*; may be given several times "
            "(default: by the suffixes of media).",
            metavar="GLOB",
            rich_help_panel=FILES,
            show_default=False,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="No files or folders like this; may be given several times.",
            metavar="GLOB",
            rich_help_panel=FILES,
            show_default=False,
        ),
    ] = None,
    follow_links: Annotated[
        bool,
        typer.Option(
            "--follow-links/--no-follow-links",
            help="Follow symbolic links (default: yes).",
            rich_help_panel=FILES,
            show_default=False,
        ),
    ] = True,
    limit: Annotated[
        int | None,
        typer.Option(help="Only the first so many files.", metavar="COUNT", min=1, rich_help_panel=FILES),
    ] = None,
    shuffle: Annotated[
        bool,
        typer.Option(
            "--shuffle", help="Take the files in an order of chance, which --seed decides.", rich_help_panel=FILES
        ),
    ] = False,
    start: StartFlag = None,
    end: EndFlag = None,
    resolved: Resolved,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again what failed before.", rich_help_panel=RUN)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only tell what would be done, with tokens and memory.", rich_help_panel=RUN),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Go on with files as they arrive, until Ctrl-C.", rich_help_panel=RUN),
    ] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="If another process writes the same output, wait until it has ended.", rich_help_panel=RUN
        ),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            help="Most seconds for reading a file, looking at it, and each answer (default: 900).",
            metavar="SECONDS",
            min=0.1,
            rich_help_panel=RUN,
        ),
    ] = 900.0,
    engine: Annotated[
        str,
        typer.Option(
            help="local: on this machine; ray: on a Ray cluster (default: local).",
            metavar="local|ray",
            rich_help_panel=MACHINES,
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the cluster, host:6379 (default: the one on this machine, or a new one).",
            metavar="ADDRESS",
            rich_help_panel=MACHINES,
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of workers (default: as many as the GPUs allow; without GPUs one a machine).",
            metavar="COUNT",
            min=1,
            rich_help_panel=MACHINES,
            show_default=False,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            help="Share of a GPU for each worker, 0.5 for two on one (default: 1 where there are GPUs).",
            metavar="SHARE",
            min=0,
            rich_help_panel=MACHINES,
            show_default=False,
        ),
    ] = None,
    ship: Annotated[
        bool,
        typer.Option("--ship", help="Send the files to the workers; no shared storage.", rich_help_panel=MACHINES),
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Rows go here: .jsonl, .csv or .parquet (default: results.jsonl).",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("results.jsonl"),
    json: Annotated[
        bool,
        typer.Option("--json", help="Print what was done as one JSON object.", rich_help_panel=OUTPUT),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=OUTPUT)
    ] = False,
    debug: DebugFlag = False,
) -> None:
    """Ask questions about all files of a folder, one row of the output each.

    What is done stays done: after an interruption, a crash or a power cut the same command goes on where it stopped.
    Exit code 3: some files failed.
    """
    profile = resolved.profile
    range_s = time_range(start, end)

    from epcli.batch import run as batches
    from epcli.batch.jobs import Search, find, plan_jobs
    from epcli.batch.ledger import Ledger
    from epcli.batch.output import Output
    from epcli.models import catalog
    from epcli.questions.record import Question
    from epcli.questions.sets import read_questions

    catalog.card(profile.model)
    places = media or []
    asked = [Question(each.strip()) for each in question or []]
    if not all(each.text for each in asked):
        raise UsageError("-Q: the question is empty: say what you want to know about the files")
    base = places[0] if places and places[0].is_dir() else None
    asked += read_questions(questions, media=base, search=False).questions if questions else []
    if not asked:
        raise UsageError("nothing is asked: give -Q QUESTION or --questions FILE")
    if not places and any(each.media is None for each in asked):
        raise UsageError("no files: give a folder, or questions that name their media")
    search = Search(tuple(include or ()), tuple(exclude or ()), follow_links)

    def plan(files: list[Path]) -> list[FileJobs]:
        return plan_jobs(files, asked, limit=limit, shuffle=profile.seed if shuffle else None)

    if watch and (limit or shuffle):
        raise UsageError("--watch takes files as they arrive: leave out --limit and --shuffle")
    if watch and not any(place.is_dir() for place in places):
        raise UsageError("--watch: give a folder to watch")
    jobs = [] if watch else plan(find(places, search))
    if not jobs and not watch:
        where = ", ".join(map(str, places))
        raise EpError(f"{where}: no media files found; --include takes files of other names")
    screen = _Screen(quiet=quiet, json=json)
    if dry_run:
        screen.plan(jobs, profile, range_s, out, retry_failed)
        return

    if engine == "ray":

        def start_engine() -> Engine:
            from epcli.batch.ray_engine import RayEngine

            return RayEngine(
                profile,
                limit_s=timeout,
                range_s=range_s,
                address=address,
                workers=workers,
                gpus=gpus_per_worker,
                ship=ship,
                on_event=screen.event,
            )
    elif engine != "local":
        raise UsageError(f"--engine {engine}: there are local and ray")
    elif address or workers or gpus_per_worker is not None or ship:
        raise UsageError("--address, --workers, --gpus-per-worker and --ship go with --engine ray")
    else:
        catalog.check_present(profile.model)

        def start_engine() -> Engine:
            from epcli.batch.work import Worker

            return Worker(profile, limit_s=timeout, range_s=range_s, on_event=screen.event)

    output = Output(out)
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.absolute().parent}")
    with Ledger(out, batches.settings(profile, range_s), wait=wait) as ledger:
        work = batches.Batch(
            ledger, output, jobs, retry_failed=retry_failed, profile=asdict(resolved.chosen()), on_row=screen.row
        )
        waiter = _watcher(work, places, search, plan) if watch else None
        _go(work, start_engine, screen, waiter)
    if work.tally.failed:
        raise typer.Exit(EXIT_PARTIAL)


def _watcher(
    work: Batch, places: list[Path], search: Any, plan: Callable[[list[Path]], list[FileJobs]]
) -> Callable[[], bool]:
    from epcli.batch.jobs import find
    from epcli.batch.watch import Watch

    def plan_these(files: list[Path]) -> list[FileJobs]:
        those = set(files)
        return [each for each in plan(files) if each.media in those]  # a question may name a file that is not there yet

    watch = Watch(work, lambda: find(places, search), plan_these)
    work.refill = watch.look
    return watch.wait


def _go(
    work: Batch,
    start_engine: Callable[[], Engine],
    screen: _Screen,
    wait: Callable[[], bool] | None,
) -> None:
    work.prepare()
    if not work.waiting and wait is None:
        work.finish()
        screen.summary(work)
        return
    try:
        with _terminable(), screen.progress(work):
            engine = start_engine()
            try:
                work.run(engine, wait or (lambda: False))
            finally:
                engine.close()
                work.finish()
    except KeyboardInterrupt:
        screen.summary(work)
        raise
    screen.summary(work)


@contextmanager
def _terminable() -> Iterator[None]:
    """A polite end (SIGTERM, as from a scheduler) is like Ctrl-C: what is done is complete, what runs is dropped."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Screen:
    """What a person sees: on a terminal a line that moves, and everywhere a line a failure and a summary, on stderr."""

    def __init__(self, quiet: bool, json: bool) -> None:
        self._quiet, self._json = quiet, json
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self._moves = sys.stderr.isatty() and not plain and not quiet
        self._bar: Any = None
        self._row: Any = None
        self._last_failure: tuple[str, str] | None = None

    @contextmanager
    def progress(self, work: Batch) -> Iterator[None]:
        """A bar while the batch runs."""
        if not self._moves:
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
        )
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, expand=True) as self._bar:
            self._row = self._bar.add_task("starting", total=None, rate="")
            self._work = work
            try:
                yield
            finally:
                self._bar = None

    def event(self, what: str) -> None:
        if self._bar is not None:
            self._advance({"loading": "loading the model"}.get(what, "asking"))

    def row(self, row: dict[str, Any]) -> None:
        """A job has come to its end."""
        if row["status"] == "failed" and self._last_failure != (row["media"], row["error"]):
            self._last_failure = (row["media"], row["error"])  # not once a question
            name = Path(row["media"]).name
            self._say(f"ep: {_relative(row['media'])}: {row['error'].removeprefix(f'{name}: ')}")
        if self._bar is not None:
            self._advance("asking")

    def _advance(self, words: str) -> None:
        tally = self._work.tally
        ended = tally.done + tally.failed
        elapsed = self._bar.tasks[0].elapsed or 0.0
        self._bar.update(
            self._row,
            description=words + (f", {tally.failed} failed" if tally.failed else ""),
            completed=ended,
            total=ended + tally.pending,
            rate=_rate(tally.answered_now + tally.failed_now, elapsed),
        )

    def _say(self, line: str) -> None:
        line = "".join(letter if letter.isprintable() else " " for letter in line)  # a file may be named anything
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def summary(self, work: Batch) -> None:
        tally = work.tally
        if self._json:
            from json import dumps

            print(dumps({**tally.to_dict(), "out": str(work.output.path)}, indent=2))
        if self._quiet:
            return
        from epcli.media.timecode import format_time

        now = tally.answered_now + tally.failed_now
        parts = [f"{tally.answered_now} answered", f"{tally.failed_now} failed"]
        if (before := tally.done + tally.failed - now) > 0:  # a failure that was asked again and answered has gone
            parts.append(f"{before} from before")
        if tally.pending:
            parts.append(f"{tally.pending} left")
        speed = f" in {format_time(tally.seconds)}" + (f", {_rate(now, tally.seconds)}" if now > 1 else "")
        print(f"ep: {', '.join(parts)}{speed}: {work.output.path}", file=sys.stderr)
        if tally.failed:
            print(f"ep: {tally.failed} failed in all; --retry-failed asks them again", file=sys.stderr)

    def plan(
        self,
        jobs: list[FileJobs],
        settings: Profile,
        range_s: tuple[float | None, float | None],
        out: Path,
        retry_failed: bool,
    ) -> None:
        """What would be done, and `ep plan`'s numbers for it, on stdout."""
        from epcli.batch.estimate import estimate

        made = estimate(jobs, settings, range_s, out, retry_failed)
        for name, reason in made.unreadable:
            self._say(f"ep: {_relative(name)}: {reason.removeprefix(f'{Path(name).name}: ')}")
        if self._json:
            from json import dumps

            print(dumps(made.to_dict(), indent=2, ensure_ascii=False))
            return
        print("\n".join(_describe(made)))


def _describe(made: Any) -> Iterator[str]:
    from epcli.media.timecode import format_time
    from epcli.report.units import size

    before = f"{made.done} done, {made.failed} failed before"
    yield f"{made.files} files, {made.jobs} questions: {before}, {made.to_ask} to ask"
    if made.unreadable:
        yield f"{len(made.unreadable)} of the files cannot be read and would fail"
    if not made.to_ask:
        return
    rows = [
        ("to look at", f"{format_time(made.duration_s)} in {made.files_to_look_at} files"),
        ("model", f"{made.model}, {made.device} {made.dtype}, selector {made.selector}"),
        ("video tokens", f"{made.tokens['video']['total']:,}, {made.tokens['video']['kept']:,} kept"),
        ("audio tokens", f"{made.tokens['audio']['total']:,}, {made.tokens['audio']['kept']:,} kept"),
    ]
    if made.peak_bytes:
        fits = {True: "fits", False: "does not fit", None: "whether it fits is not known"}[made.fits]
        free = "" if made.free_bytes is None else f" {size(made.free_bytes)}"
        rows.append(("most memory", f"{size(made.peak_bytes)} for {Path(made.largest).name}; {fits}{free}"))
    yield ""
    yield from (f"{name:14}{value}" for name, value in rows)
    for name in made.too_long[:5]:
        yield f"longer than the model's context: {_relative(name)}"
    if len(made.too_long) > 5:
        yield f"… and {len(made.too_long) - 5} more"


def _rate(count: int, elapsed_s: float) -> str:
    """How fast it goes, in whichever way is easier to read."""
    if not count or elapsed_s <= 0:
        return ""
    return f"{elapsed_s / count:.1f} s each" if elapsed_s > count else f"{count / elapsed_s:.1f} a second"


def _relative(path: str) -> str:
    """A path as short as it can be told from here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
