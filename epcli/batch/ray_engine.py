"""The Ray engine: the same worker as an actor on as many machines as the cluster has.

Ray actors and not Ray Data: a worker's state is a loaded model, its results must reach the ledger one by one, and a
file that hangs must cost one file and not a block of a data set.

Every actor holds two files, the one it answers about and the next, which it decodes meanwhile; it gets another when it
has finished one, so that fast machines do more. An actor that is lost (killed, or its machine gone) is replaced when
the cluster has room, and its files are given out again without the answers that had already arrived. The driver alone
writes ledger and output.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from epcli.batch.ledger import Task
from epcli.batch.work import Failure, Outcome, Worker, stamp_of
from epcli.config import Profile
from epcli.errors import EpError, MediaError, UsageError
from epcli.session.form import Form

AHEAD = 2  # files an actor has: one to answer about, one to decode
GIVE_UP = 3  # a file whose worker was lost so often fails; a place whose workers were, without an answer, ends the run
GPU_WORKER_CPUS = 4  # for decoding, where a GPU computes


class _Actor:
    """A worker on some machine of the cluster. `work` runs on one thread and `give` on another."""

    def __init__(
        self, profile: Profile, limit_s: float, range_s: tuple[float | None, float | None], form: Form | None
    ) -> None:
        self._worker = Worker(profile, limit_s=limit_s, range_s=range_s, form=form)
        self._queue: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._sent: dict[Path, Path] = {}  # copy here -> path on the machine that sent it

    def load(self) -> str | Failure:
        """Load the model; the worker's name, or why it cannot work."""
        try:
            self._worker.load()
        except EpError as error:
            return Failure.of(error)
        return self._worker.name

    def give(self, task: Task, sent: bytes | None) -> None:
        """Another file; `sent` is its content where this machine does not see it."""
        if sent is not None:
            copy = Path(tempfile.mkdtemp(dir=self._worker.folder)) / task.media.name
            copy.write_bytes(sent)
            self._sent[copy] = task.media
            task = replace(task, media=copy)
        self._queue.put(task)

    def finished(self, media: Path) -> None:
        """The copy of a file that was sent can go."""
        for copy in [copy for copy, original in self._sent.items() if original == media]:
            shutil.rmtree(copy.parent, ignore_errors=True)
            del self._sent[copy]

    def work(self) -> Iterator[Outcome | Failure]:
        """Outcomes, as long as this actor lives."""
        while True:
            first = [self._queue.get()]

            def take(first: list[Task] = first) -> Task | None:
                with suppress(queue.Empty):
                    return first.pop() if first else self._queue.get_nowait()
                return None

            try:
                for outcome in self._worker.process(take):
                    yield self._as_sent(outcome)
            except EpError as error:
                yield Failure.of(error)

    def _as_sent(self, outcome: Outcome) -> Outcome:
        """The outcome under the path that the file has where it came from."""
        original, report = self._sent.get(outcome.media), outcome.report
        if original is None:
            return outcome
        if report is not None:
            report = {**report, "media": {**report["media"], "path": str(original)}}
        return replace(outcome, media=original, report=report)


@dataclass(eq=False)
class _Slot:
    """A place for an actor, and what the actor in it is at."""

    actor: Any
    loading: Any  # the reference of `load`; None once the model is there
    outcomes: Any = None  # the generator of `work`
    tasks: dict[Path, Task] = field(default_factory=dict)  # given, with the jobs that have no outcome yet
    stamps: dict[Path, tuple[int, ...]] = field(default_factory=dict)  # of files that were sent
    losses: int = 0  # actors lost here since the last outcome


class RayEngine:
    """Workers on a Ray cluster."""

    def __init__(
        self,
        profile: Profile,
        *,
        limit_s: float,
        range_s: tuple[float | None, float | None] = (None, None),
        form: Form | None = None,
        address: str | None = None,
        workers: int | None = None,
        gpus: float | None = None,
        ship: bool = False,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """Connect to a cluster. Workers are asked for when there is something to do.

        Args:
            profile, limit_s, range_s, form: as of `Worker`.
            address: "auto" or "host:6379"; None: the cluster on this machine, or else a new one on it alone.
            workers: how many; by default as many as the GPUs allow, without GPUs one a machine.
            gpus: share of a GPU for each; by default 1 where the cluster has GPUs, unless the profile says CPU.
            ship: send the files through Ray; without it every machine must see them under the same path.
            on_event: told "loading" and "ready".

        Raises UsageError if Ray is not installed or no cluster answers.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is uploaded by this program
        try:
            import ray
        except ImportError:
            raise UsageError("--engine ray: Ray is not installed; install it with: pip install 'epcli[ray]'") from None
        if address and address.startswith("ray://"):
            raise UsageError(
                f"--address {address}: run `ep batch` on a machine of the cluster, with its address host:6379"
            )
        self._ray, self._ship, self._tell = ray, ship, on_event or (lambda event: None)
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # Ray raises whatever its layers raise
                where = address or "this machine"
                raise UsageError(f"--engine ray: no cluster at {where} ({_first_line(error)})") from None
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        there = sum(machine.get("GPU", 0.0) for machine in machines)
        if gpus is None:
            gpus = 1.0 if there and profile.device in ("auto", "cuda") else 0.0
        if gpus > there:
            raise UsageError(f"--gpus-per-worker {gpus:g}: the cluster has {there:g} GPUs")
        self._workers = workers or (max(1, int(there / gpus)) if gpus else len(machines))
        together = -(-self._workers // len(machines))  # on the machine with most
        cpus = max(1, int(min(machine.get("CPU", 1.0) for machine in machines)) // together)
        options = {
            "num_cpus": min(cpus, GPU_WORKER_CPUS) if gpus else cpus,
            "num_gpus": gpus,
            "max_concurrency": 2,
            "scheduling_strategy": "SPREAD",
        }
        self._hire = lambda: ray.remote(_Actor).options(**options).remote(profile, limit_s, range_s, form)
        self._slots: list[_Slot] = []
        self._waiting: deque[Task] = deque()  # files of lost workers, and one that nobody has asked for yet
        self._suspects: Counter[Path] = Counter()  # how often a file's worker was lost

    def close(self) -> None:
        """Give the workers back to the cluster."""
        for slot in self._slots:
            with suppress(Exception):
                self._ray.kill(slot.actor)
        self._slots = []
        if self._ours:
            self._ray.shutdown()

    def process(self, take: Callable[[], Task | None]) -> Iterator[Outcome]:
        """Work until `take` has nothing. Raises EpError if no model loads, or workers are lost again and again."""
        while self._has_work(take) or any(slot.tasks for slot in self._slots):
            while len(self._slots) < self._workers:
                self._tell("loading")
                self._slots.append(self._fill(_Slot(None, None)))
            yield from self._give(take)
            there = {slot.outcomes if slot.loading is None else slot.loading: slot for slot in self._slots}
            ready, _ = self._ray.wait(list(there), num_returns=1, timeout=1.0)
            for reference in ready:
                slot = there[reference]
                try:
                    received = self._ray.get(slot.loading or next(slot.outcomes))
                except (self._ray.exceptions.RayError, StopIteration) as error:
                    yield from self._lost(slot, error)
                    continue
                if isinstance(received, Failure):
                    raise received.error()
                if isinstance(received, Outcome):
                    yield self._arrived(slot, received)
                else:
                    slot.loading = None
                    slot.outcomes = slot.actor.work.options(num_returns="streaming").remote()
                    self._tell("ready")

    def _has_work(self, take: Callable[[], Task | None]) -> bool:
        if not self._waiting and (task := take()) is not None:
            self._waiting.append(task)
        return bool(self._waiting)

    def _fill(self, slot: _Slot) -> _Slot:
        slot.actor = self._hire()
        slot.loading, slot.outcomes = slot.actor.load.remote(), None
        return slot

    def _give(self, take: Callable[[], Task | None]) -> Iterator[Outcome]:
        """Everyone gets a first file before anyone gets a second."""
        for number in range(AHEAD):
            for slot in self._slots:
                while slot.loading is None and len(slot.tasks) <= number and self._has_work(take):
                    task = self._waiting.popleft()
                    sent = None
                    if self._ship:
                        slot.stamps[task.media] = stamp_of(task.media)
                        try:
                            sent = self._ray.put(_content(task.media))
                        except MediaError as error:
                            yield from self._failed(task, Failure.of(error))
                            continue
                    slot.tasks[task.media] = task
                    slot.actor.give.remote(task, sent)

    def _arrived(self, slot: _Slot, outcome: Outcome) -> Outcome:
        media, slot.losses = outcome.media, 0
        if (task := slot.tasks.get(media)) is not None:
            left = tuple(job for job in task.jobs if job.id != outcome.job.id)
            slot.tasks[media] = replace(task, jobs=left)
            if not left:
                del slot.tasks[media]
                if self._ship:
                    slot.actor.finished.remote(media)
        return replace(outcome, stamp=slot.stamps.get(media, outcome.stamp))

    def _lost(self, slot: _Slot, error: Exception) -> Iterator[Outcome]:
        """Another actor in its place; its files go to whoever is free."""
        with suppress(Exception):
            self._ray.kill(slot.actor)
        slot.losses += 1
        if slot.losses >= GIVE_UP:
            raise EpError(f"--engine ray: {slot.losses} workers were lost one after the other ({_first_line(error)})")
        for media, task in slot.tasks.items():
            self._suspects[media] += 1
            if self._suspects[media] < GIVE_UP:
                self._waiting.append(task)
            else:
                reason = f"{media.name}: {GIVE_UP} workers were lost that had it"
                yield from self._failed(task, Failure(reason, EpError.exit_code))
        slot.tasks.clear()
        self._fill(slot)

    def _failed(self, task: Task, failure: Failure) -> Iterator[Outcome]:
        for job in task.jobs:
            yield Outcome(task.media, job, None, failure, (), stamp_of(task.media), None, "driver")


def _content(media: Path) -> bytes:
    from epcli.media.probe import check_file

    check_file(media)
    try:
        return media.read_bytes()
    except OSError as error:
        raise MediaError(f"{media.name}: cannot be read: {error.strerror}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
