"""A batch from beginning to end: jobs into the ledger, tasks to an engine, its outcomes into ledger and output.

    files, questions ─▶ Ledger ─▶ take() ─▶ engine (local or Ray) ─▶ Outcome ─▶ Ledger ─▶ Output

Only this process writes ledger and output, whatever the engine and however many machines it has.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from epcli import content
from epcli.batch.jobs import FileJobs
from epcli.batch.ledger import Ledger, Task
from epcli.batch.output import Output
from epcli.batch.work import Outcome
from epcli.config import Profile
from epcli.session.form import Form, Schema

ROW_SCHEMA = 1
RangeS = tuple[float | None, float | None]


class Engine(Protocol):
    """Where tasks are worked on."""

    def process(self, take: Callable[[], Task | None]) -> Iterator[Outcome]:
        """Take tasks until there are none, give an outcome for every job of them. Raises EpError if nothing can be."""
        ...

    def close(self) -> None:
        """End at once. What was not given is lost, and will be asked again."""
        ...


@dataclass
class Tally:
    """What a run did. The states count the jobs of this run, whenever they were done."""

    files: int = 0
    done: int = 0
    failed: int = 0
    pending: int = 0
    answered_now: int = 0
    failed_now: int = 0
    changed: int = 0  # files whose content is another than when they were asked about
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {"schema": ROW_SCHEMA, **asdict(self)}


def settings(profile: Profile, range_s: RangeS, form: Form | None = None) -> dict[str, Any]:
    """All that decides an answer besides file and question."""
    wanted: dict[str, Any] = {}
    if isinstance(form, Schema):
        wanted["schema"] = f"of SHA-256 {hashlib.sha256(form.text.encode()).hexdigest()[:12]}"
    elif form is not None:
        wanted["choices"] = list(form.texts)
    return {**asdict(profile), "start": range_s[0], "end": range_s[1], **wanted}


def row(outcome: Outcome, profile: dict[str, str] | None = None) -> dict[str, Any]:
    """The row of one job, as it stands in the output. `profile`: its name and why it is the one, for the report."""
    report, failure = outcome.report, outcome.failure
    if report is not None and profile is not None:
        report = {**report, "profile": profile}
    question = outcome.job.question
    return {
        "schema": ROW_SCHEMA,
        "media": str(outcome.media),
        "question": question.text,
        **({"id": question.key} if question.key else {}),
        "status": "done" if report is not None else "failed",
        "answer": None if report is None else report["answer"],
        "error": None if failure is None else failure.message,
        "exit_code": 0 if failure is None else failure.exit_code,
        "warnings": [*outcome.warnings, *([] if report is None else report["warnings"])],
        "content": outcome.content,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "worker": outcome.worker,
        "report": report,
    }


@dataclass
class Batch:
    """The jobs of one run over an open ledger."""

    ledger: Ledger
    output: Output
    jobs: list[FileJobs]
    retry_failed: bool = False
    profile: dict[str, str] | None = None  # as a report has it
    on_row: Callable[[dict[str, Any]], None] = lambda row: None
    refill: Callable[[], None] = lambda: None  # called when nothing waits; may `add`
    tally: Tally = field(default_factory=Tally)
    _queue: deque[Task] = field(default_factory=deque)

    def prepare(self) -> None:
        """Enter the jobs, drop the rows of changed files, complete the output. `tally` then tells what is left."""
        self.tally = Tally()
        self.ledger.add(self.jobs)
        for each in self.jobs:
            self.check(each.media)
        self.output.begin(self.ledger)
        self._queue = deque(self.ledger.tasks(self.jobs))
        self.count()

    def check(self, media: Path) -> None:
        """Make pending again what is out of date about a file, and with `retry_failed` what failed."""
        known = self.ledger.seen(media)
        if known is not None and self._changed(media, *known):
            self.tally.changed += self.ledger.forget(media) > 0
        elif self.retry_failed:
            self.ledger.forget(media, "failed")

    def _changed(self, media: Path, stamp: tuple[int, ...], digest: str | None) -> bool:
        """Whether a file that was read is another one now. One that has gone keeps its rows."""
        try:
            now = content.stamp(media)
            if now == stamp:
                return False
            if digest is None or content.sha256(media) != digest:
                return True
        except OSError:
            return False
        self.ledger.set_seen(media, now, digest)  # touched, or moved to another disk
        return False

    def add(self, jobs: list[FileJobs]) -> None:
        """Further files, or files that have changed."""
        known = {each.media for each in self.jobs}
        self.jobs += [each for each in jobs if each.media not in known]
        self.ledger.add(jobs)
        before = self.tally.changed
        for each in jobs:
            self.check(each.media)
        if self.tally.changed != before:
            self.output.begin(self.ledger)
        waiting = {task.media for task in self._queue}
        self._queue += [task for task in self.ledger.tasks(jobs) if task.media not in waiting]
        self.count()

    @property
    def waiting(self) -> int:
        """How many files wait to be taken."""
        return len(self._queue)

    def take(self) -> Task | None:
        """The next task, which the ledger then knows to be running."""
        if not self._queue:
            self.refill()
        if not self._queue:
            return None
        task = self._queue.popleft()
        self.ledger.begin(task)
        return task

    def run(self, engine: Engine, wait: Callable[[], bool] = lambda: False) -> None:
        """Do everything. When nothing is left `wait` may bring more (and return True), as --watch does."""
        began = time.monotonic()
        try:
            while True:
                for outcome in engine.process(self.take):
                    self._record(outcome)
                if not wait():
                    break
        finally:
            self.tally.seconds = time.monotonic() - began

    def finish(self) -> None:
        """Complete the output, however the run ended."""
        self.output.end(self.ledger)
        self.count()

    def _record(self, outcome: Outcome) -> None:
        made = row(outcome, self.profile)
        line = self.ledger.finish(outcome.media, outcome.job, made, outcome.stamp, outcome.content)
        if line is None:  # another worker was given the job as well, and was first
            return
        self.output.append(line)
        failed = made["status"] == "failed"
        self.tally.pending -= 1
        self.tally.failed += failed
        self.tally.done += not failed
        self.tally.failed_now += failed
        self.tally.answered_now += not failed
        self.on_row(made)

    def count(self) -> None:
        states = self.ledger.count(self.jobs)
        self.tally.files = len(self.jobs)
        self.tally.done, self.tally.failed = states["done"], states["failed"]
        self.tally.pending = states["pending"] + states["running"]
