"""The process that looks at files for the index. A file that crashes or stalls it costs that file and no other."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epcli.batch.child import Child, Died, Overdue
from epcli.batch.work import Failure
from epcli.errors import CapacityError, EpError, MediaError, WeightsError
from epcli.find.index import Begun, Name, Observed
from epcli.find.passages import SEEN, Findings, findings

if TYPE_CHECKING:
    from epcli.observe.pieces import Mark
    from epcli.records import Observation

TELL_S = 0.25  # progress is told no more often


@dataclass(frozen=True)
class _Progress:
    done_s: float
    total_s: float


@dataclass(frozen=True)
class _Stretch:
    observations: str  # JSON, as in Begun
    mark: str


class Observer:
    """Looks at one file after the other in a process of its own, which is replaced when it ends."""

    def __init__(self, limit_s: float) -> None:
        """Starts nothing yet. `limit_s`: most seconds without progress."""
        self._limit_s = limit_s
        self._folder = tempfile.TemporaryDirectory(prefix="ep-index-")
        self._child: Child | None = None

    def close(self) -> None:
        """End the process at once."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        self._folder.cleanup()

    def observe(
        self,
        path: Path,
        begun: Begun | None,
        *,
        on_progress: Callable[[float, float], None],
        on_stretch: Callable[[str, str], None],
    ) -> Observed | Failure:
        """Look at a file, or at what is left of one that was begun.

        `on_progress` is told the seconds that are done, and of how many; `on_stretch` the observations of a stretch and
        the mark after it, as Begun holds them. Raises EpError if nothing can be looked at, as without weights.
        """
        child = self._started()
        child.send((path, begun))
        while True:
            try:
                message = child.receive(time.monotonic() + self._limit_s)
            except Overdue:
                self._drop()
                return Failure(f"{path.name}: no progress for {self._limit_s:g} s", EpError.exit_code)
            except Died as death:
                self._drop()
                code = CapacityError.exit_code if death.killed else MediaError.exit_code
                return Failure(f"{path.name}: ended the process that looks at files ({death})", code)
            if isinstance(message, _Progress):
                on_progress(message.done_s, message.total_s)
                continue
            if isinstance(message, _Stretch):
                on_stretch(message.observations, message.mark)
                continue
            if isinstance(message, Failure) and message.exit_code == WeightsError.exit_code:
                raise message.error()
            result: Observed | Failure = message
            return result

    def _started(self) -> Child:
        if self._child is None:
            child = Child(observe_files, Path(self._folder.name))
            self._child = child
            try:
                trouble = child.receive()
            except Died as death:
                self._drop()
                raise EpError(f"the process that looks at files does not start ({death}); see `ep doctor`") from None
            if trouble is not None:
                self._drop()
                raise trouble.error()
        return self._child

    def _drop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


# --- In that process ----------------------------------------------------------------------------------


def observe_files(pipe: Any) -> None:
    """The process's body."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        from epcli.observe.listen import Ears
        from epcli.observe.minilm import MiniLM
        from epcli.observe.picture import Eye

        texts = Texts(MiniLM().embed)
        parts = {"ears": Ears.load(), "eye": Eye()}
        pipe.send(None)
    except Exception as error:
        pipe.send(Failure.of(error))
        return
    while True:
        path, begun = pipe.recv()
        try:
            pipe.send(_observe(path, begun, texts, parts, pipe.send))
        except MemoryError:
            pipe.send(Failure(f"{path.name}: out of memory", CapacityError.exit_code))
        except Exception as error:  # whatever it is, it is this file's trouble and not the next one's
            pipe.send(Failure.of(error))


def _observe(
    path: Path, begun: Begun | None, texts: Texts, parts: dict[str, Any], tell: Callable[[_Progress | _Stretch], None]
) -> Observed:
    from epcli import content
    from epcli.media.probe import check_file, probe
    from epcli.observe.look import observe
    from epcli.observe.pieces import Mark
    from epcli.records import Observation

    check_file(path)
    before = content.stamp(path)
    told = 0.0

    def progress(done_s: float, total_s: float) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            tell(_Progress(done_s, total_s))

    found: list[Observation] = []
    start: Mark | None = None
    if begun is not None:
        found = [Observation.of_row(row) for part in begun.observations for row in json.loads(part)]
        start = Mark(**json.loads(begun.mark))
    saved = len(found)

    def save(mark: Mark) -> None:
        nonlocal saved
        rows = [each.to_row() for each in found[saved:]]
        saved = len(found)
        tell(_Stretch(json.dumps(rows), json.dumps(asdict(mark))))

    try:
        digest = content.sha256(path)
        duration_s = probe(path).duration_s
        for each in observe(path, on_progress=progress, mark=start, on_mark=save, **parts):
            found.append(each)  # one by one: `save` counts them
        if content.stamp(path) != before:
            raise MediaError(f"{path.name}: was changed while it was read; run again when it is complete")
    except OSError as error:
        raise MediaError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    return texts.observed(findings(found), before[0], before[1], digest, duration_s)


class Texts:
    """Gives the texts of a file their vectors."""

    def __init__(self, embed: Callable[[list[str]], Any]) -> None:
        """`embed`: texts -> (N, 384) float32 of length 1."""
        self._embed = embed
        self._names: dict[tuple[str, str], Any] = {}  # the vector of each name that was met

    def observed(self, seen: Findings, size: int, modified: int, digest: str | None, duration_s: float) -> Observed:
        """What was found in a file, as the index takes it."""
        import numpy as np

        called = list(dict.fromkeys((each.how, each.name) for each in seen.sightings))
        fresh = [each for each in called if each not in self._names]
        self._names.update(zip(fresh, self._embed([name for _, name in fresh]), strict=True))
        vectors = np.stack([self._names[each] for each in called]) if called else np.zeros((0, 384), np.float32)
        return Observed(
            size=size,
            modified=modified,
            content=digest,
            duration_s=duration_s,
            findings=seen,
            line_vectors=self._embed([line.text for line in seen.lines]),
            names=tuple(_name(*each) for each in called),
            name_vectors=vectors,
        )


def _name(how: str, text: str) -> Name:
    """A name with what else it may be found by."""
    from epcli.observe import names, sounds

    if how == SEEN:
        return Name(how, text, names.plural(text) if text in names.all_names() else "", names.kinds(text))
    return Name(how, text, kinds=sounds.broader(text))
