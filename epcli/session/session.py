"""The stages in a row, each timed and measured.

media file -> Clip -> Features -> TokenStream -> KeptStream -> Answer -> Report
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import DynamicCache

from epcli.config import Profile
from epcli.errors import CapacityError, UsageError
from epcli.media.probe import check_file
from epcli.media.read import read, still_with_sound
from epcli.models import catalog
from epcli.models.family import AVModel
from epcli.records import (
    Answer,
    Clip,
    ClipSummary,
    Features,
    KeptStream,
    MediaTokens,
    Modality,
    Report,
    Sampling,
    Turn,
)
from epcli.session import generate
from epcli.session.cache import FeatureCache, Recipe, Slot
from epcli.session.evidence import RULE, find_evidence
from epcli.session.moments import media_tokens, moments
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select

DEFAULT_KEEP = 0.2  # of a selector named without a budget
DEFAULT_LEAST = 160  # tokens, nor fewer than these: a fifth of five seconds is 40
TRAINING_FREE = "query-aware"  # for a model without a trained sieve
STAGES = ("load", "cache", "media", "vision", "audio", "sieve", "prefill", "decode", "evidence")
HEARING = (
    "hear",
    "sound",
    "listen",
    "said",
    "say",
    "speak",
    "spoken",
    "voice",
    "noise",
    "music",
    "instrument",
    "loud",
    "audio",
    "sing",
    "talk",
)
SEEING = (
    "see",
    "look",
    "colour",
    "color",
    "picture",
    "visible",
    "shown",
    "watch",
    "frame",
    "left",
    "right",
    "background",
)


class Meter:
    """Seconds of each stage, and the process's peak memory while it runs."""

    def __init__(self, device: torch.device, on_stage: Callable[[str], None] | None = None) -> None:
        self.device, self.on_stage = device, on_stage
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.peak_rss = 0
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Meter:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watch.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_rss = max(self.peak_rss, process.memory_info().rss)
            if self._stop.wait(0.02):
                return

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self.on_stage:
            self.on_stage(name)
        self._sync()
        start = time.perf_counter()
        yield
        self._sync()
        self.seconds[name] += time.perf_counter() - start

    def _sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_device(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None


def choose_device(profile: Profile) -> torch.device:
    """The device asked for, or the best there is. Raises UsageError if it is not there."""
    wanted = profile.device
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(wanted.split(":")[0], False):
        raise UsageError(f"--device {wanted}: torch {torch.__version__} finds no such device here; try --device cpu")
    return torch.device(wanted)


def choose_dtype(profile: Profile, device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware computes in it, else float16 (GPU) or float32 (CPU)."""
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if profile.dtype != "auto":
        return named[profile.dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.float16
    return cpu_dtype()


def cpu_dtype() -> torch.dtype:
    """What this processor computes in: where bfloat16 is emulated, it takes about ten times as long as float32."""
    return torch.bfloat16 if cpu_has_bf16() else torch.float32


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively (AVX512-BF16, AMX or Arm BF16)."""
    capability = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if any(capability.get(key) for key in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "sve_bf16")):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def choose_selector(profile: Profile, model: AVModel) -> tuple[str, Budget, list[str]]:
    """Which selector, how much it keeps, and what the user should be told. An untrained sieve is never run.

    Without `--selector`: the trained sieve if the model has one; else everything is kept, unless `--keep` or `--budget`
    asks for less: then the best training-free selector. Raises UsageError if selector and budget do not go together.
    """
    asked = profile.keep is not None or profile.budget is not None
    name, notes = profile.selector, []
    if name is None:
        name = "cs2" if model.sieve is not None else TRAINING_FREE if asked else "none"
        if name == TRAINING_FREE:
            notes = [f"{model.name} has no trained sieve; the training-free selector {name} chose the tokens"]
    if name == "none":
        if asked:
            raise UsageError("--selector none keeps every token: leave out --keep and --budget, or choose another")
        return name, Budget.of(1.0), notes
    return name, budget_of(profile), notes


def budget_of(profile: Profile) -> Budget:
    """What a selector other than none keeps; with no word on it a fifth, but DEFAULT_LEAST tokens of a short clip."""
    if profile.keep is None and profile.budget is None:
        return Budget(ratio=DEFAULT_KEEP, least=DEFAULT_LEAST)
    return Budget.of(profile.keep or DEFAULT_KEEP, profile.budget)


def open_model(profile: Profile) -> AVModel:
    """The profile's model, loaded on its device."""
    if profile.threads:
        torch.set_num_threads(profile.threads)
    device = choose_device(profile)
    return catalog.load(profile.model, device, choose_dtype(profile, device), profile.quantize)


@dataclass(frozen=True, eq=False)
class Opened:
    """A file that was found in the cache, or decoded. No model was needed for it."""

    media: Path
    range_s: tuple[float | None, float | None]  # as asked for; None: the file's own beginning or end
    sampling: Sampling
    clip: Clip | None  # decoded; None if it was found in the cache
    slot: Slot | None  # its place in the cache; None if the cache is off
    seconds: dict[str, float]  # of the stages cache and media
    peak_rss: int
    sound: Path | None = None  # of another file, to a still picture


@dataclass(frozen=True, eq=False)
class Looked:
    """A file decoded and encoded once, or found in the cache; ready for any number of questions."""

    clip: ClipSummary
    features: Features
    range_s: tuple[float | None, float | None]  # as asked for; None: the file's own beginning or end
    sampling: Sampling
    cache: str  # "hit", "miss" or "off"
    seconds: dict[str, float]  # of the stages up to audio
    peak_rss: int
    sound: Path | None = None  # of another file, to a still picture

    def again(self) -> Looked:
        """For further questions: the seconds of looking were spent on the first and are not counted twice."""
        return replace(self, seconds=dict.fromkeys(STAGES, 0.0), cache="off" if self.cache == "off" else "hit")

    def decode(self) -> Clip:
        """The pictures and the sound that the features were made of, decoded again. Raises MediaError."""
        if self.sound is not None:
            return _pair(self.clip.info.path, self.sound, self.sampling)
        return read(self.clip.info.path, self.sampling, *self.range_s)


@dataclass(frozen=True, eq=False)
class Asked:
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

    def recipe(self, start_s: float | None = None, end_s: float | None = None) -> Recipe | None:
        """What decides a file's features besides its content; None if the cache is off. Raises WeightsError."""
        if not self.profile.cache:
            return None
        towers = self.card.towers(self.device, choose_dtype(self.profile, self.device))
        return Recipe(towers, self.sampling, (start_s, end_s), self.card.name)

    def look(self, media: Path, start_s: float | None = None, end_s: float | None = None) -> Looked:
        """Decode a file and run the towers, or find both done in the cache.

        Raises MediaError, UsageError (range), WeightsError or CapacityError.
        """
        return self.encode(self.open(media, start_s, end_s))

    def look_pair(self, picture: Path, sound: Path) -> Looked:
        """`look` at a still picture and listen to a sound of another file, as one clip. Raises as `look`.

        The cache knows single files only.
        """
        if not (self.profile.video and self.profile.audio):
            return self.look(picture if self.profile.video else sound)
        with Meter(torch.device("cpu"), self.on_stage) as meter, _capacity(picture), meter.stage("media"):
            clip = _pair(picture, sound, self.sampling)
        return self.encode(
            Opened(picture, (None, None), self.sampling, clip, None, meter.seconds, meter.peak_rss, sound)
        )

    def open(
        self,
        media: Path,
        start_s: float | None = None,
        end_s: float | None = None,
        decoded: tuple[Clip, float] | None = None,
    ) -> Opened:
        """The first half of `look`: find a file in the cache, or decode it. Needs no model, so any thread may do it.

        `decoded`: the file's clip by this session's `sampling`, and the seconds that decoding took elsewhere.

        Raises MediaError, UsageError (range), WeightsError or CapacityError.
        """
        check_file(media)
        clip, slot = None, None
        with Meter(torch.device("cpu"), self.on_stage) as meter, _capacity(media):
            if store := FeatureCache.of(self.profile):
                with meter.stage("cache"), suppress(OSError):  # what is wrong with the file, reading it tells better
                    if recipe := self.recipe(start_s, end_s):
                        slot = store.open(media, recipe)
            if slot is None or slot.features is None:
                if decoded is not None:
                    clip, meter.seconds["media"] = decoded
                else:
                    with meter.stage("media"):
                        clip = read(media, self.sampling, start_s, end_s)
        return Opened(media, (start_s, end_s), self.sampling, clip, slot, meter.seconds, meter.peak_rss)

    def encode(self, opened: Opened) -> Looked:
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
        return Looked(
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
        looked: Looked,
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
        looked: Looked,
        question: str,
        on_text: Callable[[str], None] | None = None,
        history: Sequence[Turn] = (),
        *,
        with_evidence: bool = True,
    ) -> Asked:
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
        report = _report(question, profile, looked, model, kept, answer, meter, selector, notes)
        if carried is not None:
            report = replace(report, evidence=_evidence(media_tokens(kept.stream, clip), carried))
        return Asked(report, kept, carried)


def _pair(picture: Path, sound: Path, sampling: Sampling) -> Clip:
    seen = read(picture, replace(sampling, audio=False))
    return still_with_sound(seen, read(sound, replace(sampling, video=False)))


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


def ask(
    media: Path,
    question: str,
    profile: Profile,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    on_text: Callable[[str], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
    evidence: bool = False,
) -> Report:
    """Answer one question about one file. Raises EpError: UsageError, MediaError, WeightsError or CapacityError."""
    check_question(question)
    session = Session(profile, on_stage)
    return session.ask(session.look(media, start_s, end_s), question, on_text, evidence=evidence)


def _report(
    question: str,
    profile: Profile,
    looked: Looked,
    model: AVModel,
    kept: KeptStream,
    answer: Answer,
    meter: Meter,
    selector: str,
    notes: list[str],
) -> Report:
    clip = looked.clip
    seconds = {stage: looked.seconds[stage] + meter.seconds[stage] for stage in STAGES}
    counts = count_tokens(kept)
    all_av, kept_av = (sum(counts[m][which] for m in ("video", "audio")) for which in ("total", "kept"))
    steps = max(len(answer.token_ids) - 1, 0)
    return Report(
        question=question,
        answer=answer.text,
        model=model.name,
        selector=selector,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        media={
            "path": str(clip.info.path),
            "duration_s": round(clip.info.duration_s, 3),
            "has_video": clip.info.has_video,
            "has_audio": clip.info.has_audio,
            "frames": len(clip.frame_times_s),
            "range_s": [round(t, 3) for t in clip.range_s],
        },
        tokens={
            **counts,
            "keep_ratio": kept_av / all_av if all_av else None,
            "requested": {"keep": profile.keep, "budget": profile.budget},
        },
        timings_s={**seconds, "total": sum(seconds.values())},
        speed={
            "first_token_s": sum(seconds.values()) - answer.decode_s - seconds["evidence"],
            "decode_tokens_per_s": steps / answer.decode_s if steps and answer.decode_s else 0.0,
        },
        generated_tokens=len(answer.token_ids),
        finish_reason=answer.finish_reason,
        memory={
            "peak_rss_bytes": max(looked.peak_rss, meter.peak_rss),
            "peak_device_bytes": meter.peak_device(),
            "kv_cache_bytes": answer.kv_cache_bytes,
        },
        cache={"features": looked.cache},
        settings=asdict(profile),
        warnings=(*clip.warnings, *notes, *unanswerable(question, clip), *cut_short(answer)),
    )


def _evidence(tokens: MediaTokens, carried: np.ndarray) -> dict[str, Any]:
    """The report's account of what carried the answer."""
    shares = {m.name.lower(): float(carried[tokens.modality == m].sum()) for m in (Modality.VIDEO, Modality.AUDIO)}
    return {
        "rule": RULE,
        "shares": shares,
        "moments": [asdict(moment) for moment in moments(tokens, carried)],
    }


def count_tokens(kept: KeptStream) -> dict[str, dict[str, int]]:
    """Total and kept tokens of each modality."""
    whole = kept.stream.modality.cpu()
    part = whole[kept.indices.cpu()]
    return {
        m.name.lower(): {"total": int((whole == m).sum()), "kept": int((part == m).sum())}
        for m in (Modality.VIDEO, Modality.AUDIO, Modality.TEXT)
    }


def unanswerable(question: str, clip: ClipSummary) -> list[str]:
    """Warnings about a question for which there are no tokens."""
    words = question.lower()
    name = clip.info.path.name
    found = []
    if not clip.heard and any(w in words for w in HEARING):
        why = "sound was switched off" if clip.info.has_audio else "the file has no sound"
        found.append(f"{name}: the question is about sound, but {why}")
    if not clip.frame_times_s and any(w in words.split() or w in words for w in SEEING):
        why = "pictures were switched off" if clip.info.has_video else "the file has no picture"
        found.append(f"{name}: the question is about the picture, but {why}")
    return found


def cut_short(answer: Answer) -> list[str]:
    """Warnings about an answer that did not end by itself."""
    if answer.finish_reason == "length":
        return ["the answer was cut at --max-new-tokens"]
    if answer.finish_reason == "repetition":
        return ["the answer was stopped because it repeated itself"]
    return []
