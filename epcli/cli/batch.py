"""`ep batch`: many files, many questions."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epcli.cli.options import (
    OUTPUT,
    DebugFlag,
    EndFlag,
    FormFlags,
    StartFlag,
    option,
    path_argument,
    path_option,
    settings,
    time_range,
)
from epcli.cli.screen import from_here, redraws
from epcli.config import Profile, Resolved
from epcli.errors import EXIT_PARTIAL, EpError, UsageError
from epcli.text import as_question, one_line, visible, visible_json

if TYPE_CHECKING:
    from epcli.batch.jobs import FileJobs
    from epcli.batch.run import Batch, Engine, RangeS
    from epcli.questions.record import Question
    from epcli.session.form import Form

FILES, ASKING, RUN, MACHINES = "Which files", "What to ask", "The run", "More machines"


@dataclass(frozen=True)
class Asking:
    """What is asked."""

    question: Annotated[
        list[str] | None,
        option("A question about every file; may be given several times.", "TEXT", ASKING, "--question", "-Q"),
    ] = None
    questions: Annotated[
        Path | None,
        path_option(
            "A file of questions: text with one question a line, or JSONL or CSV with question and media.",
            "FILE",
            ASKING,
        ),
    ] = None

    def read(self, places: list[Path]) -> list[Question]:
        """The questions of both. Raises UsageError for none, an empty one, or one without a file to ask about."""
        from epcli.questions.record import Question
        from epcli.questions.sets import read_questions

        asked = [Question(as_question(each, "-Q: the question")) for each in self.question or []]
        base = places[0] if places and places[0].is_dir() else None
        asked += read_questions(self.questions, media=base, search=False).questions if self.questions else []
        if not asked:
            raise UsageError("nothing is asked: give -Q QUESTION or --questions FILE")
        if not places and any(each.media is None for each in asked):
            raise UsageError("no files: give a folder, or questions that name their media")
        return asked


@dataclass(frozen=True)
class Files:
    """Which files of the folders."""

    include: Annotated[
        list[str] | None,
        option(
            "Only files that match, such as *.mkv or talks/*; may be given several times.",
            "GLOB",
            FILES,
            show_default="all files with a media suffix",
        ),
    ] = None
    exclude: Annotated[
        list[str] | None, option("Leave out files and folders that match; may be given several times.", "GLOB", FILES)
    ] = None
    follow_links: Annotated[bool, option("Follow symbolic links.", "", FILES)] = True
    limit: Annotated[int | None, option("Take only the first COUNT files.", "COUNT", FILES, min=1)] = None
    shuffle: Annotated[
        bool, option("Take the files in a random order, which --seed changes.", "", FILES, "--shuffle")
    ] = False


@dataclass(frozen=True)
class RunOptions:
    """How the run goes."""

    retry_failed: Annotated[bool, option("Try failed jobs again.", "", RUN, "--retry-failed")] = False
    dry_run: Annotated[bool, option("Only show what would be done, with tokens and memory.", "", RUN, "--dry-run")] = (
        False
    )
    watch: Annotated[bool, option("Wait for new files and ask about them, until Ctrl-C.", "", RUN, "--watch")] = False
    wait: Annotated[
        bool, option("If another process writes the same output, wait until it has ended.", "", RUN, "--wait")
    ] = False
    timeout: Annotated[
        float,
        option("Most seconds for decoding a file, for encoding it, and for each answer.", "SECONDS", RUN, min=0.1),
    ] = 900.0


@dataclass(frozen=True)
class Machines:
    """Where the workers are."""

    engine: Annotated[str, option("local: on this machine; ray: on a Ray cluster.", "local|ray", MACHINES)] = "local"
    address: Annotated[
        str | None,
        option(
            "Address of the cluster, host:6379.",
            "ADDRESS",
            MACHINES,
            show_default="the one on this machine, or a new one",
        ),
    ] = None
    workers: Annotated[
        int | None,
        option(
            "Number of workers.",
            "COUNT",
            MACHINES,
            min=1,
            show_default="as many as the GPUs allow; without GPUs one per machine",
        ),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        option(
            "Share of a GPU for each worker; 0.5 puts two on one GPU.",
            "SHARE",
            MACHINES,
            min=0,
            show_default="1 where there are GPUs",
        ),
    ] = None
    ship: Annotated[bool, option("Send the files to the workers; no shared storage.", "", MACHINES, "--ship")] = False


@settings("look", "answer", "tokens", "machine")
def batch(
    media: Annotated[
        list[Path] | None, path_argument("Folders to search, or files; none if the questions name them.", "FOLDER...")
    ] = None,
    *,
    asking: Asking,
    files: Files,
    start: StartFlag = None,
    end: EndFlag = None,
    resolved: Resolved,
    form: FormFlags,
    running: RunOptions,
    machines: Machines,
    out: Annotated[Path, path_option("Rows go here: .jsonl, .csv or .parquet.", "FILE", OUTPUT, "--out", "-o")] = Path(
        "results.jsonl"
    ),
    json: Annotated[bool, option("Print what was done as one JSON object.", "", OUTPUT, "--json")] = False,
    quiet: Annotated[bool, option("Print only errors.", "", OUTPUT, "--quiet", "-q")] = False,
    debug: DebugFlag = False,
) -> None:
    """Ask questions about all files of a folder; each answer is a row of the output.

    What is done stays done: after an interruption, a crash or a power cut the same command goes on where it stopped.
    Exit code 3: some files failed.
    """
    profile = resolved.profile
    range_s = time_range(start, end)
    wanted = form.read()

    from epcli.batch import run as batches
    from epcli.batch.jobs import Search, find, plan_jobs
    from epcli.batch.ledger import Ledger
    from epcli.batch.output import Output
    from epcli.models import catalog

    catalog.find(profile.model)
    places = media or []
    asked = asking.read(places)
    search = Search(tuple(files.include or ()), tuple(files.exclude or ()), files.follow_links)

    def plan(found: list[Path]) -> list[FileJobs]:
        return plan_jobs(found, asked, limit=files.limit, shuffle=profile.seed if files.shuffle else None)

    if running.watch and (files.limit or files.shuffle):
        raise UsageError("--watch takes files as they arrive: leave out --limit and --shuffle")
    if running.watch and not any(place.is_dir() for place in places):
        raise UsageError("--watch: give a folder to watch")
    jobs = [] if running.watch else plan(find(places, search))
    if not jobs and not running.watch:
        where = ", ".join(map(str, places))
        raise EpError(f"{where}: no media files found; --include takes files of other names")
    screen = _Screen(quiet=quiet, json=json)
    if running.dry_run:
        screen.plan(jobs, profile, range_s, out, running.retry_failed)
        return

    start_engine = _engine(machines, profile, running.timeout, range_s, wanted, screen)
    output = Output(out)
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.absolute().parent}")
    with Ledger(out, batches.settings(profile, range_s, wanted), wait=running.wait) as ledger:
        work = batches.Batch(
            ledger,
            output,
            jobs,
            retry_failed=running.retry_failed,
            profile=asdict(resolved.chosen()),
            on_row=screen.row,
        )
        waiter = _watcher(work, places, search, plan) if running.watch else None
        _go(work, start_engine, screen, waiter)
    if work.tally.failed:
        raise typer.Exit(EXIT_PARTIAL)


def _engine(
    machines: Machines, profile: Profile, limit_s: float, range_s: RangeS, form: Form | None, screen: _Screen
) -> Callable[[], Engine]:
    """What starts the engine that the flags name. Raises UsageError for flags that do not go together."""

    def local() -> Engine:
        from epcli.batch.work import Worker

        return Worker(profile, limit_s=limit_s, range_s=range_s, form=form, on_event=screen.event)

    def ray() -> Engine:
        from epcli.batch.ray_engine import RayEngine

        return RayEngine(
            profile,
            limit_s=limit_s,
            range_s=range_s,
            form=form,
            address=machines.address,
            workers=machines.workers,
            gpus=machines.gpus_per_worker,
            ship=machines.ship,
            on_event=screen.event,
        )

    if machines.engine == "ray":
        return ray
    if machines.engine != "local":
        raise UsageError(f"--engine {machines.engine}: there are local and ray")
    if machines != Machines():
        raise UsageError("--address, --workers, --gpus-per-worker and --ship go with --engine ray")
    from epcli.models import catalog

    catalog.check_present(profile.model)
    return local


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
        self._moves = redraws() and not quiet
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
            self._say(f"ep: {from_here(row['media'])}: {row['error'].removeprefix(f'{name}: ')}")
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
        line = one_line(line)  # a file may be named anything
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
        from epcli.text import format_time

        now = tally.answered_now + tally.failed_now
        parts = [f"{tally.answered_now} answered", f"{tally.failed_now} failed"]
        if (before := tally.done + tally.failed - now) > 0:  # a failure that was asked again and answered has gone
            parts.append(f"{before} from before")
        if tally.pending:
            parts.append(f"{tally.pending} left")
        speed = f" in {format_time(tally.seconds)}" + (f", {_rate(now, tally.seconds)}" if now > 1 else "")
        print(f"ep: {', '.join(parts)}{speed}: {one_line(str(work.output.path))}", file=sys.stderr)
        if tally.failed:
            print(f"ep: {tally.failed} failed in all; --retry-failed asks them again", file=sys.stderr)

    def plan(
        self,
        jobs: list[FileJobs],
        settings: Profile,
        range_s: RangeS,
        out: Path,
        retry_failed: bool,
    ) -> None:
        """What would be done, and `ep plan`'s numbers for it, on stdout."""
        from epcli.batch.estimate import estimate

        made = estimate(jobs, settings, range_s, out, retry_failed)
        for name, reason in made.unreadable:
            self._say(f"ep: {from_here(name)}: {reason.removeprefix(f'{Path(name).name}: ')}")
        if self._json:
            from json import dumps

            print(visible_json(dumps(made.to_dict(), indent=2, ensure_ascii=False)))
            return
        print(visible("\n".join(_describe(made))))


def _describe(made: Any) -> Iterator[str]:
    from epcli.text import format_time, size

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
        yield f"longer than the model's context: {from_here(name)}"
    if len(made.too_long) > 5:
        yield f"… and {len(made.too_long) - 5} more"


def _rate(count: int, elapsed_s: float) -> str:
    """How fast it goes, in whichever way is easier to read."""
    if not count or elapsed_s <= 0:
        return ""
    return f"{elapsed_s / count:.1f} s each" if elapsed_s > count else f"{count / elapsed_s:.1f} a second"
