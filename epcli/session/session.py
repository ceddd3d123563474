"""The stages in a row, each timed and measured.

media file -> Clip -> Features -> TokenStream -> KeptStream -> Answer -> Report
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from epcli.config import Profile, from_python
from epcli.errors import CapacityError, UsageError
from epcli.media.probe import check_file
from epcli.media.read import read
from epcli.models import catalog
from epcli.models.family import AVModel, Source
from epcli.records import STAGES, Clip, Features, KeptStream, Modality, Report, Sampling, Turn
from epcli.session import generate, silence
from epcli.session.cache import FeatureCache, FeatureKey
from epcli.session.choices import choose
from epcli.session.clips import EncodedClip, OpenedClip, pair
from epcli.session.device import choose_device, choose_dtype
from epcli.session.evidence import find_evidence
from epcli.session.finite import check_features
from epcli.session.form import Choices, Form, Schema, read_form
from epcli.session.grammar import Grammar
from epcli.session.kv import new_cache
from epcli.session.meter import Meter
from epcli.session.reporting import Measured, build_report
from epcli.session.selection import choose_selector, read_whole
from epcli.sieve.seats.schedule import layers_note
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select
from epcli.text import as_question, parse_time


def open_model(profile: Profile, on_progress: Callable[[float], None] | None = None) -> AVModel:
    """The profile's model, loaded on its device. `on_progress`: called with the share of the weights read, 0 to 1."""
    if profile.threads:
        torch.set_num_threads(profile.threads)
    device = choose_device(profile)
    return catalog.load(profile.model, device, choose_dtype(profile, device), profile.quantize, on_progress)


@dataclass(frozen=True, eq=False)
class Answered:
    """A question answered, with what its report was made from."""

    report: Report
    kept: KeptStream
    evidence: np.ndarray | None  # (n,) float32, what each sound and picture token gave to the answer; sums to 1, or 0


class Session:
    """A model and its settings, for one question or many. The model is loaded when first needed.

    with Session(keep=0.1) as session:
        looked = session.look("movie.mp4", start=60, end="1:30")
        print(session.ask(looked, "What plays?").answer)
    """

    def __init__(
        self,
        profile: Profile | str | os.PathLike[str] | None = None,
        on_stage: Callable[[str], None] | None = None,
        on_progress: Callable[[float], None] | None = None,
        **settings: Any,
    ) -> None:
        """Raises UsageError (a wrong setting, a missing device) or WeightsError (a model that must be pulled first).

        Args:
            profile: the settings to start from: a `Profile`, the name of a shipped one or the path of a YAML file. None
                is the defaults. Neither the environment (EP_*) nor ep.yaml is read.
            on_stage: called with a stage's name when the stage begins.
            on_progress: called while the model loads, with the share of the weights read, 0 to 1.
            settings: fields of `Profile`, which go before those of `profile`: model="ep-smol", keep=0.1, ...
        """
        self.profile = from_python(profile, settings)
        self.on_stage, self.on_progress = on_stage, on_progress
        catalog.check_present(self.profile.model)
        self.source = catalog.find(self.profile.model)
        self.device = choose_device(self.profile)
        self._model: AVModel | None = None

    @classmethod
    def of(
        cls,
        profile: Profile,
        source: Source,
        model: AVModel | None,
        on_stage: Callable[[str], None] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Session:
        """A session with a model that is loaded. `source` may be of one that `ep models list` does not know."""
        session = cls.__new__(cls)
        session.profile = profile
        session.on_stage, session.on_progress = on_stage, on_progress
        session.source, session.device, session._model = source, choose_device(profile), model
        return session

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model and its memory. A later question loads it again."""
        self._model = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def load(self, meter: Meter | None = None) -> AVModel:
        """The model; the first call loads it, and `meter` times that. Raises WeightsError."""
        if self._model is None:
            with (meter or Meter(self.device, self.on_stage)).stage("load"):
                self._model = open_model(self.profile, self.on_progress)
        return self._model

    def using(self, profile: Profile) -> Session:
        """The same model under other settings: all may differ but model, device, dtype and quantize."""
        return Session.of(profile, self.source, self._model, self.on_stage, self.on_progress)

    @property
    def sampling(self) -> Sampling:
        """How files are decoded under these settings."""
        return self.source.family.sampling(self.profile)

    def feature_key(self, start_s: float | None = None, end_s: float | None = None) -> FeatureKey | None:
        """What decides a file's features besides its content; None if the cache is off. Raises WeightsError."""
        if not self.profile.cache:
            return None
        dtype = choose_dtype(self.profile, self.device)
        towers = self.source.family.tower_key(self.source, self.device, dtype)
        return FeatureKey(towers, self.sampling, (start_s, end_s), self.source.name)

    def look(
        self,
        media: str | os.PathLike[str],
        start: float | str | None = None,
        end: float | str | None = None,
        *,
        reading: Future[Clip] | None = None,
    ) -> EncodedClip:
        """Decode a file and run the towers, or find both done in the cache.

        `start` and `end`: seconds, or a time such as "1:30"; None is the file's own beginning or end. `reading`: of
        this file and range, by this session's `sampling`; the model is loaded until it is done.

        Raises MediaError, UsageError (range), WeightsError or CapacityError.
        """
        return self.encode(self.open(Path(media), *_range(start, end), reading=reading))

    def look_pair(self, picture: Path, sound: Path) -> EncodedClip:
        """`look` at a still picture and listen to a sound of another file, as one clip. Raises as `look`.

        The cache knows single files only.
        """
        if not (self.profile.video and self.profile.audio):
            return self.look(picture if self.profile.video else sound)
        with Meter(torch.device("cpu"), self.on_stage) as meter, _capacity(picture), meter.stage("media"):
            clip = pair(picture, sound, self.sampling)
        return self.encode(
            OpenedClip(picture, (None, None), self.sampling, clip, None, meter.seconds, meter.peak_rss, sound)
        )

    def open(
        self,
        media: Path,
        start_s: float | None = None,
        end_s: float | None = None,
        decoded: tuple[Clip, float] | None = None,
        reading: Future[Clip] | None = None,
    ) -> OpenedClip:
        """The first half of `look`: find a file in the cache, or decode it. Needs no model, so any thread may do it.

        `decoded`: the file's clip by this session's `sampling`, and the seconds that decoding took elsewhere.
        `reading`: as in `look`.

        Raises MediaError, UsageError (range), WeightsError or CapacityError.
        """
        check_file(media)
        clip, slot = None, None
        with Meter(torch.device("cpu"), self.on_stage) as meter, _capacity(media):
            if store := FeatureCache.of(self.profile):
                with meter.stage("cache"), suppress(OSError):  # what is wrong with the file, reading it tells better
                    if key := self.feature_key(start_s, end_s):
                        slot = store.open(media, key)
            if slot is None or slot.features is None:
                if decoded is not None:
                    clip, meter.seconds["media"] = decoded
                elif reading is not None:
                    if not reading.done():
                        self.load(meter)
                    with meter.stage("media"):  # what is left of it
                        clip = reading.result()
                else:
                    with meter.stage("media"):
                        clip = read(media, self.sampling, start_s, end_s)
        return OpenedClip(media, (start_s, end_s), self.sampling, clip, slot, meter.seconds, meter.peak_rss)

    def encode(self, opened: OpenedClip) -> EncodedClip:
        """The second half of `look`: run the towers, and store what they made. Raises WeightsError or CapacityError."""
        slot, clip = opened.slot, opened.clip
        with Meter(self.device, self.on_stage) as meter, _capacity(opened.media):
            if clip is None:
                assert slot is not None
                assert slot.clip is not None
                assert slot.features is not None
                summary, features = slot.clip, slot.features
            else:
                model = self.load(meter)
                with meter.stage("vision"):
                    video = model.encode_video(clip)
                with meter.stage("audio"):
                    audio = model.encode_audio(clip)
                check_features(model, video, audio)
                summary, features = clip.summary(), Features(clip.duration_s, video, audio)
                if slot is not None:
                    with meter.stage("cache"):
                        trouble = slot.store(summary, features)
                    if trouble:
                        summary = replace(summary, warnings=(*summary.warnings, trouble))
        return EncodedClip(
            summary,
            features,
            opened.range_s,
            opened.sampling,
            "off" if slot is None else "hit" if clip is None else "miss",
            {stage: opened.seconds[stage] + meter.seconds[stage] for stage in STAGES},
            max(opened.peak_rss, meter.peak_rss),
            opened.sound,
        )

    def ask(
        self,
        looked: EncodedClip,
        question: str,
        on_text: Callable[[str], None] | None = None,
        history: Sequence[Turn] = (),
        *,
        evidence: bool = False,
        schema: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        choices: Sequence[str] | None = None,
    ) -> Report:
        """Answer a question about a file that was looked at.

        Raises UsageError, WeightsError or CapacityError, and EpError if JSON was not complete at `max_new_tokens`.

        Args:
            looked: what `look` returned.
            question: in plain words.
            on_text: called with each piece of the answer as soon as it is there.
            history: earlier questions about the file and their answers, the oldest first, which the model reads too.
            evidence: the report also tells what carried the answer.
            schema: the answer is JSON that meets this JSON Schema: a file, or the schema itself.
            choices: the answer is the likeliest of these; the report has the probability of each.
        """
        form = read_form(schema, choices)
        return self.run(looked, question, on_text, history, with_evidence=evidence, form=form).report

    def stream(
        self,
        looked: EncodedClip,
        question: str,
        history: Sequence[Turn] = (),
        *,
        evidence: bool = False,
        schema: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        choices: Sequence[str] | None = None,
    ) -> AnswerStream:
        """`ask`, with the answer as an iterator over its pieces. Errors about the file are raised while it is read."""
        question, form = as_question(question), read_form(schema, choices)
        return AnswerStream(self._steps(looked, question, history, evidence, form))

    def run(
        self,
        looked: EncodedClip,
        question: str,
        on_text: Callable[[str], None] | None = None,
        history: Sequence[Turn] = (),
        *,
        with_evidence: bool = True,
        form: Form | None = None,
    ) -> Answered:
        """`ask`, and what was kept. `with_evidence`: also find what carried the answer, in a stage of its own."""
        question = as_question(question)
        return generate.finish(self._steps(looked, question, history, with_evidence, form), on_text)

    def _steps(
        self, looked: EncodedClip, question: str, history: Sequence[Turn], with_evidence: bool, form: Form | None
    ) -> Generator[str, None, Answered]:
        """Choose tokens, answer, look for evidence: yields the answer's pieces."""
        profile = self.profile
        with Meter(self.device, self.on_stage) as meter, _capacity(looked.clip.info.path):
            model = self.load(meter)
            grammar = Grammar(form, model) if isinstance(form, Schema) else None
            selector, budget, notes = choose_selector(profile, model)
            with meter.stage("prefill"):
                stream = model.stream(silence.audible(looked.clip, looked.features), question, profile.system, history)
            words = int((stream.modality == Modality.TEXT).sum())
            if words + profile.max_new_tokens > model.context_tokens:  # before the sieve reads it all
                raise CapacityError(
                    f"the question, with the system prompt and earlier turns, takes {words:,} tokens; "
                    f"{model.name} reads {model.context_tokens:,}, the answer included; ask something shorter"
                )
            if read_whole(profile, len(stream.modality) - words):
                selector, budget = "none", Budget.of(1.0)
            with meter.stage("sieve"):
                tools = Tools(decoder=model.decoder, sieve=model.sieve, seed=profile.seed)
                kept = select(selector, stream, budget, tools)
            if kept.drops:
                notes += layers_note(len(model.decoder.layers))
            cache = new_cache(model.decoder)
            if isinstance(form, Choices):
                saying = choose(model, kept, form, cache, profile.max_new_tokens)
            else:
                saying = generate.stream(
                    model,
                    kept,
                    max_new_tokens=profile.max_new_tokens,
                    temperature=profile.temperature,
                    seed=profile.seed,
                    cache=cache,
                    grammar=grammar,
                )
            if form is None:  # no sentence can be taken out of JSON or a choice
                saying = silence.checked(saying, looked.clip)
            answer, prefill_s, depths, choices = yield from saying
            kept = replace(kept, depths=depths)
            meter.seconds["prefill"] += prefill_s
            meter.seconds["decode"] = answer.first_token_s - prefill_s + answer.decode_s
            carried = None
            if with_evidence:
                with meter.stage("evidence"):
                    carried = find_evidence(model, kept, answer, cache)
        made = Measured(model, selector, kept, answer, meter, carried, tuple(notes), choices)
        return Answered(build_report(question, profile, looked, made), kept, carried)


class AnswerStream(Iterator[str]):
    """The pieces of an answer, each as soon as it is there; then its report."""

    def __init__(self, steps: Generator[str, None, Answered]) -> None:
        self._steps = steps
        self._answered: Answered | None = None

    def __next__(self) -> str:
        try:
            return next(self._steps)
        except StopIteration as end:
            self._answered = self._answered or end.value
            raise

    @property
    def report(self) -> Report:
        """What was measured. Reads the rest of the answer first. Raises UsageError if the stream was closed before."""
        for _ in self:
            pass
        if self._answered is None:
            raise UsageError("the answer was not read to its end, so there is no report of it")
        return self._answered.report

    def close(self) -> None:
        """Stop answering."""
        self._steps.close()


def _range(start: float | str | None, end: float | str | None) -> tuple[float | None, float | None]:
    """Seconds. Raises UsageError for what is no time, or no range."""
    start_s, end_s = _seconds("start", start), _seconds("end", end)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise UsageError(f"end {end} is not after {'the beginning' if start is None else f'start {start}'}")
    return start_s, end_s


def _seconds(name: str, time: float | str | None) -> float | None:
    if time is None:
        return None
    if isinstance(time, str):
        try:
            return parse_time(time)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
    if not 0 <= time < math.inf:
        raise UsageError(f"{name}: {time} is not a time in seconds from 0 up")
    return float(time)


@contextmanager
def _capacity(media: Path) -> Iterator[None]:
    """Out of memory becomes one line that says what to do."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        what = str(error).splitlines()[0] if str(error) else "host memory is used up"
        raise CapacityError(
            f"{media.name}: out of memory ({what}); "
            "shorten the range (--start/--end), lower --max-frames, or choose a smaller profile"
        ) from None
