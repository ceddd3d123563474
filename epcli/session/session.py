"""The stages in a row, each timed and measured.

media file -> Clip -> Features -> TokenStream -> KeptStream -> Answer -> Report
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache

from epcli.config import Profile
from epcli.errors import CapacityError, UsageError
from epcli.media.probe import check_file
from epcli.media.read import read
from epcli.models import catalog
from epcli.models.family import AVModel
from epcli.records import STAGES, Clip, Features, KeptStream, Report, Sampling, Turn
from epcli.session import generate
from epcli.session.cache import FeatureCache, FeatureKey
from epcli.session.clips import EncodedClip, OpenedClip, pair
from epcli.session.device import choose_device, choose_dtype
from epcli.session.evidence import find_evidence
from epcli.session.meter import Meter
from epcli.session.reporting import Measured, build_report
from epcli.session.selection import choose_selector
from epcli.sieve.selectors import Tools, select


def open_model(profile: Profile) -> AVModel:
    """The profile's model, loaded on its device."""
    if profile.threads:
        torch.set_num_threads(profile.threads)
    device = choose_device(profile)
    return catalog.load(profile.model, device, choose_dtype(profile, device), profile.quantize)


@dataclass(frozen=True, eq=False)
class Answered:
    """A question answered, with what its report was made from."""

    report: Report
    kept: KeptStream
    evidence: np.ndarray | None  # (n,) float32, what each sound and picture token gave to the answer; sums to 1, or 0


class Session:
    """A model and its settings, for one question or many. The model is loaded when first needed."""

    def __init__(
        self,
        profile: Profile,
        on_stage: Callable[[str], None] | None = None,
        *,
        card: catalog.Card | None = None,
        model: AVModel | None = None,
    ) -> None:
        """Raises UsageError if model or device are not to be had.

        `card` and `model`: of one that is no name of `ep models list`, and is loaded.
        """
        self.profile, self.on_stage = profile, on_stage
        if not (profile.video or profile.audio):
            raise UsageError("--no-video and --no-audio together leave nothing to look at or listen to")
        if card is None:
            catalog.check_present(profile.model)
        self.card = card or catalog.card(profile.model)
        self.device = choose_device(profile)
        self._model = model

    def load(self, meter: Meter) -> AVModel:
        if self._model is None:
            with meter.stage("load"):
                self._model = open_model(self.profile)
        return self._model

    def using(self, profile: Profile) -> Session:
        """The same model under other settings: all may differ but model, device, dtype and quantize."""
        return Session(profile, self.on_stage, card=self.card, model=self._model)

    @property
    def sampling(self) -> Sampling:
        """How files are decoded under these settings."""
        return self.card.sampling(self.profile)

    def feature_key(self, start_s: float | None = None, end_s: float | None = None) -> FeatureKey | None:
        """What decides a file's features besides its content; None if the cache is off. Raises WeightsError."""
        if not self.profile.cache:
            return None
        towers = self.card.towers(self.device, choose_dtype(self.profile, self.device))
        return FeatureKey(towers, self.sampling, (start_s, end_s), self.card.name)

    def look(self, media: Path, start_s: float | None = None, end_s: float | None = None) -> EncodedClip:
        """Decode a file and run the towers, or find both done in the cache.

        Raises MediaError, UsageError (range), WeightsError or CapacityError.
        """
        return self.encode(self.open(media, start_s, end_s))

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
    ) -> OpenedClip:
        """The first half of `look`: find a file in the cache, or decode it. Needs no model, so any thread may do it.

        `decoded`: the file's clip by this session's `sampling`, and the seconds that decoding took elsewhere.

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
    ) -> Report:
        """Answer a question about a file that was looked at. Raises UsageError or CapacityError.

        `history`: earlier questions about it and their answers, the oldest first, which the model reads too.
        `evidence`: the report also tells what carried the answer.
        """
        return self.run(looked, question, on_text, history, with_evidence=evidence).report

    def run(
        self,
        looked: EncodedClip,
        question: str,
        on_text: Callable[[str], None] | None = None,
        history: Sequence[Turn] = (),
        *,
        with_evidence: bool = True,
    ) -> Answered:
        """`ask`, and what was kept. `with_evidence`: also find what carried the answer, in a stage of its own."""
        check_question(question)
        profile, clip = self.profile, looked.clip
        with Meter(self.device, self.on_stage) as meter, _capacity(clip.info.path):
            model = self.load(meter)
            selector, budget, notes = choose_selector(profile, model)
            with meter.stage("prefill"):
                stream = model.stream(looked.features, question, profile.system, history)
            with meter.stage("sieve"):
                tools = Tools(decoder=model.decoder, sieve=model.sieve, seed=profile.seed)
                kept = select(selector, stream, budget, tools)
            cache = DynamicCache(config=model.decoder.config)
            answer, prefill_s = generate.run(
                model,
                kept,
                max_new_tokens=profile.max_new_tokens,
                temperature=profile.temperature,
                seed=profile.seed,
                on_text=on_text,
                cache=cache,
            )
            meter.seconds["prefill"] += prefill_s
            meter.seconds["decode"] = answer.first_token_s - prefill_s + answer.decode_s
            carried = None
            if with_evidence:
                with meter.stage("evidence"):
                    carried = find_evidence(model, kept, answer, cache)
        made = Measured(model, selector, kept, answer, meter, carried, tuple(notes))
        report = build_report(question, profile, looked, made)
        return Answered(report, kept, carried)


def check_question(question: str) -> None:
    """Raises UsageError for a question without words."""
    if not question.strip():
        raise UsageError("the question is empty; ask something, or give - to read it from standard input")


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
