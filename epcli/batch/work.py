"""The worker: files and questions in, outcomes out. The local runner and the Ray runner both run `Worker.process`.

It has two processes of its own. The reader decodes; it knows no model and is small. The model process holds the model
and answers. While the model answers about one file the reader decodes the next, no further ahead, so that at most two
clips are in memory. Either process is replaced when it crashes, is killed, or takes longer than the limit, and only the
file that it was at fails.

    take() ─▶ reader: hash, decode ─▶ clip in a temporary file ─▶ model process: towers, answers ─▶ Outcome
"""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epcli import errors
from epcli.batch.child import Child, Died, Overdue
from epcli.batch.ledger import Job, Task
from epcli.config import Profile
from epcli.errors import CapacityError, EpError, MediaError
from epcli.session.form import Form

if TYPE_CHECKING:
    from epcli.records import Clip, Sampling
    from epcli.session.cache import FeatureKey

FEWEST_FRAMES = 2
FEWEST_KEPT = 0.05
NOT_THERE = (0, 0, 0, 0)  # the stamp of a file that could not be seen


@dataclass(frozen=True)
class Failure:
    """Why something could not be done, in a form that passes between processes and machines."""

    message: str
    exit_code: int

    @classmethod
    def of(cls, error: Exception) -> Failure:
        if isinstance(error, EpError):
            return cls(str(error), error.exit_code)
        return cls(f"unexpected {type(error).__name__}: {error}".splitlines()[0], EpError.exit_code)

    def error(self) -> EpError:
        """The same as an exception of errors.py."""
        for each in vars(errors).values():
            if isinstance(each, type) and issubclass(each, EpError) and each.exit_code == self.exit_code:
                return each(self.message)
        return EpError(self.message)


@dataclass(frozen=True)
class Outcome:
    """What came of one job."""

    media: Path
    job: Job
    report: dict[str, Any] | None  # None if it failed
    failure: Failure | None  # None if it was answered
    warnings: tuple[str, ...]  # of the batch; those of the report are in it
    stamp: tuple[int, ...] | None  # of the file when it was read
    content: str | None  # SHA-256 of the file; None if it could not be read
    worker: str  # host and process


# --- In the reader ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ReadRequest:
    """What the reader is asked for."""

    media: Path
    sampling: Sampling
    range_s: tuple[float | None, float | None]
    key: FeatureKey | None  # with it, a file whose features are cached is not decoded; None: there is no cache
    profile: Profile
    clip: Path  # where the clip goes


@dataclass(frozen=True)
class _ReadResult:
    """What the reader found."""

    stamp: tuple[int, ...]
    content: str | None
    frames: int  # decoded; 0 if the features are cached or there is no picture
    decoded: bool  # whether there is a clip; else the features are cached
    seconds: float
    failure: Failure | None = None


def read_files(pipe: Any) -> None:
    """The reader's body."""

    pipe.send(None)  # what it needs is loaded: from now on time counts
    while True:
        order: _ReadRequest = pipe.recv()
        pipe.send(_read_one(order))


def _read_one(order: _ReadRequest) -> _ReadResult:
    from epcli import content

    began = time.perf_counter()
    stamp, digest = NOT_THERE, None
    try:
        from epcli.media.probe import check_file
        from epcli.media.read import read
        from epcli.session.cache import FeatureCache

        try:
            stamp = content.stamp(order.media)
            check_file(order.media)
            digest = content.sha256(order.media)
        except OSError as error:
            check_file(order.media)  # says it better
            raise MediaError(f"{order.media.name}: cannot be read: {error.strerror}") from error
        store = FeatureCache.of(order.profile)
        clip: Clip | None = None
        if store is None or order.key is None or not store.holds(order.media, order.key):
            try:
                clip = read(order.media, order.sampling, *order.range_s)
            except MemoryError:
                raise CapacityError(f"{order.media.name}: out of memory while it was decoded") from None
        _check_unchanged(order.media, stamp)
        if clip is not None:
            with order.clip.open("wb") as file:
                pickle.dump(clip, file, protocol=5)
        frames = 0 if clip is None or clip.frames is None else len(clip.frames)
        return _ReadResult(stamp, digest, frames, clip is not None, time.perf_counter() - began)
    except Exception as error:  # whatever it is, it is this file's trouble and not the next one's
        return _ReadResult(stamp, digest, 0, False, time.perf_counter() - began, Failure.of(error))


def _check_unchanged(media: Path, stamp: tuple[int, ...]) -> None:
    from epcli import content

    try:
        same = content.stamp(media) == stamp
    except OSError:
        same = False
    if not same:
        raise MediaError(f"{media.name}: was changed or removed while it was read; run again when it is complete")


# --- In the model process ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ready:
    """The model is loaded, and this is how it wants files decoded."""

    sampling: Sampling
    key: FeatureKey | None


@dataclass(frozen=True)
class _EncodeRequest:
    media: Path
    profile: Profile  # with the budget of this attempt
    clip: Path | None  # None: the file is found in the cache, or decoded here
    read_s: float


@dataclass(frozen=True)
class _EncodeResult:
    frames: int
    duration_s: float


def answer(pipe: Any, profile: Profile, range_s: tuple[float | None, float | None], form: Form | None) -> None:
    """The model process's body."""
    from epcli.session.clips import EncodedClip
    from epcli.session.session import Session

    _silence_libraries()
    try:
        session = Session(profile)
        session.load()
        pipe.send(_Ready(session.sampling, session.feature_key(*range_s)))
    except Exception as error:
        pipe.send(Failure.of(error))
        return
    looked: EncodedClip | None = None
    while True:
        order = pipe.recv()
        try:
            if isinstance(order, _EncodeRequest):
                looked = None  # the file before need not be in memory with this one
                session = session.using(order.profile)
                decoded = None
                if order.clip is not None:
                    with order.clip.open("rb") as file:
                        decoded = (pickle.load(file), order.read_s)  # our own file, in a folder only we can enter
                looked = session.encode(session.open(order.media, *range_s, decoded=decoded))
                result: Any = _EncodeResult(len(looked.clip.frame_times_s), looked.clip.duration_s)
            else:
                assert looked is not None
                result = session.run(looked, order, with_evidence=False, form=form).report.to_dict()
                looked = looked.again()
        except Exception as error:
            result = Failure.of(error)
            if result.exit_code == CapacityError.exit_code:
                looked = None
                _release_memory()
        pipe.send(result)


def _silence_libraries() -> None:
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- Beside them --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """A file that the reader has begun with."""

    task: Task
    order: _ReadRequest
    deadline: float


class _Trouble(Exception):
    """A call to the model process that gave no result."""

    def __init__(self, failure: Failure, *, lost: bool, memory: bool, again: bool = False) -> None:
        self.failure, self.lost, self.memory, self.again = failure, lost, memory, again


class Worker:
    """A reader and a model process, and what to do when they fail."""

    def __init__(
        self,
        profile: Profile,
        *,
        limit_s: float,
        range_s: tuple[float | None, float | None] = (None, None),
        form: Form | None = None,
        overlap: bool = True,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            limit_s: most seconds for reading a file, for the towers, and for each answer; not for loading.
            range_s: the part of each file that is meant.
            form: of the answers.
            overlap: decode the next file while the model answers; without it, afterwards.
            on_event: told "loading" and "ready".
        """
        self.profile, self.limit_s, self.range_s, self.form = profile, limit_s, range_s, form
        self._overlap, self._tell = overlap, on_event or (lambda event: None)
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
        self._reader: Child | None = None
        self._reads = False  # the reader has loaded what it needs
        self._model: Child | None = None
        self._ready: _Ready | None = None
        self._count = 0
        self.name = f"{socket.gethostname()}:{os.getpid()}"

    def close(self) -> None:
        """End both processes. What they were at is lost."""
        self._drop_reader()
        self._drop_model()
        shutil.rmtree(self.folder, ignore_errors=True)

    def process(self, take: Callable[[], Task | None]) -> Iterator[Outcome]:
        """Work until `take` has nothing; one outcome a job, as soon as it is known.

        Raises EpError when no file could be answered, because the model cannot be loaded.
        """
        reading = self._begin(take())
        while reading is not None:
            found = self._found(reading)
            following = self._begin(take()) if self._overlap else None
            yield from self._outcomes(reading, found)
            reading.order.clip.unlink(missing_ok=True)
            reading = following or self._begin(take())

    # --- Reading ------------------------------------------------------------------------------------

    def _begin(self, task: Task | None) -> _Reading | None:
        if task is None:
            return None
        ready = self.load()
        self._count += 1
        clip = self.folder / f"{self._count}.clip"
        order = _ReadRequest(task.media, ready.sampling, self.range_s, ready.key, self.profile, clip)
        return self._send(task, order)

    def _send(self, task: Task, order: _ReadRequest) -> _Reading:
        reader = self._hire_reader()
        if not self._reads:
            try:
                reader.receive()
            except Died as death:
                raise EpError(f"the process that reads files does not start ({death}); see `ep doctor`") from None
            self._reads = True
        reader.send(order)
        return _Reading(task, order, time.monotonic() + self.limit_s)

    def _found(self, reading: _Reading) -> _ReadResult:
        """What the reader found; a failure if it does not come to an end."""
        media = reading.order.media
        for again in (True, False):
            assert self._reader is not None
            try:
                found: _ReadResult = self._reader.receive(reading.deadline)
                return found
            except Overdue:
                failure = Failure(self._overdue(media, "reading it"), EpError.exit_code)
                again = False
            except Died as death:
                failure = Failure(f"{media.name}: crashed the process that reads files ({death})", MediaError.exit_code)
            self._drop_reader()
            reading.order.clip.unlink(missing_ok=True)
            if not again:
                break
            reading = self._send(reading.task, reading.order)
        return _ReadResult(stamp_of(media), None, 0, False, 0.0, failure)

    def _hire_reader(self) -> Child:
        if self._reader is None:
            self._reader, self._reads = Child(read_files, self.folder), False
        return self._reader

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.kill()
            self._reader = None

    # --- Answering ----------------------------------------------------------------------------------

    def _outcomes(self, reading: _Reading, found: _ReadResult) -> Iterator[Outcome]:
        task, profile = reading.task, self.profile
        todo = deque(task.jobs)
        notes: tuple[str, ...] = ()

        def outcome(report: dict[str, Any] | None, failure: Failure | None) -> Outcome:
            return Outcome(task.media, todo.popleft(), report, failure, notes, found.stamp, found.content, self.name)

        if found.failure is not None:
            while todo:
                yield outcome(None, found.failure)
            return
        clip = reading.order.clip if found.decoded else None
        frames, may_die, looked = found.frames, True, False
        while todo:
            try:
                if not looked:
                    reply: _EncodeResult = self._call(
                        _EncodeRequest(task.media, profile, clip, found.seconds), task.media
                    )
                    looked, frames = True, reply.frames
                report = self._call(todo[0].question.text, task.media)
            except _Trouble as trouble:
                whole = not looked  # nothing can be asked about this file
                looked = looked and not trouble.lost
                if trouble.again and may_die:
                    may_die = False
                    continue
                if trouble.memory and (less := smaller(profile, frames)):
                    profile, note = less
                    reason = "it ran out of memory" if trouble.again else "it did not fit"
                    notes = (*notes, f"{task.media.name}: {reason}; asked again with {note}")
                    clip, looked = None, False
                    continue
                yield outcome(None, trouble.failure)
                while whole and todo:
                    yield outcome(None, trouble.failure)
                continue
            yield outcome(report, None)

    def _call(self, order: Any, media: Path) -> Any:
        """The model process's answer. Raises _Trouble."""
        self.load()
        assert self._model is not None
        self._model.send(order)
        try:
            result = self._model.receive(time.monotonic() + self.limit_s)
        except Overdue:
            self._drop_model()
            what = "looking at it" if isinstance(order, _EncodeRequest) else "answering"
            raise _Trouble(Failure(self._overdue(media, what), EpError.exit_code), lost=True, memory=False) from None
        except Died as death:
            self._drop_model()
            what = f"{media.name}: ended the process that holds the model ({death})"
            failure = Failure(what, CapacityError.exit_code if death.killed else EpError.exit_code)
            raise _Trouble(failure, lost=True, memory=death.killed, again=True) from None
        if isinstance(result, Failure):
            memory = result.exit_code == CapacityError.exit_code
            raise _Trouble(result, lost=memory, memory=memory)
        return result

    def load(self) -> _Ready:
        """Start the model process if there is none. Raises EpError if the model cannot be loaded."""
        if self._model is not None and self._ready is not None:
            return self._ready
        self._tell("loading")
        self._hire_reader()  # both load at the same time
        self._model = Child(answer, self.folder, self.profile, self.range_s, self.form)
        try:
            ready = self._model.receive()
        except Died as death:
            self._drop_model()
            error = CapacityError if death.killed else EpError
            raise error(f"{self.profile.model}: its process ended while it was loaded ({death})") from None
        if isinstance(ready, Failure):
            self._drop_model()
            raise ready.error()
        self._tell("ready")
        self._ready = ready
        return self._ready

    def _drop_model(self) -> None:
        if self._model is not None:
            self._model.kill()
            self._model = None

    def _overdue(self, media: Path, what: str) -> str:
        return f"{media.name}: {what} took longer than {self.limit_s:g} s; --timeout sets the limit"


_FOLDER = "ep-batch-"
_STALE_S = 86_400.0  # a process of another container may have the number of none here


def _sweep() -> None:
    """Remove folders whose worker is gone with all its processes, as when a cluster kills them together."""
    import psutil

    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        with suppress(OSError, ValueError):
            number = int(folder.name.removeprefix(_FOLDER).split("-")[0])
            if not psutil.pid_exists(number) and time.time() - folder.stat().st_mtime > _STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


def smaller(profile: Profile, frames: int) -> tuple[Profile, str] | None:
    """Settings that need less memory, and the flag that says so; None if there is nothing left to give up.

    Half the frames; of sound alone, a share of the tokens, and then half of it.
    """
    if frames >= 2 * FEWEST_FRAMES:
        return replace(profile, max_frames=frames // 2), f"--max-frames {frames // 2}"
    if profile.selector == "none":
        return None
    if profile.budget is not None:
        if profile.budget < 2:
            return None
        return replace(profile, budget=profile.budget // 2), f"--budget {profile.budget // 2}"
    share = profile.keep / 2 if isinstance(profile.keep, float) else 0.5
    return (replace(profile, keep=share), f"--keep {share:g}") if share >= FEWEST_KEPT else None


def stamp_of(media: Path) -> tuple[int, ...]:
    """What tells whether a file is still the same; NOT_THERE if it cannot be seen."""
    from epcli import content

    try:
        return content.stamp(media)
    except OSError:
        return NOT_THERE
