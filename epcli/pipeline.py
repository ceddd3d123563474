"""The stages in a row, each timed and measured.

media file -> Clip -> Features -> TokenStream -> KeptStream -> Answer -> Report
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import torch

from epcli import generate
from epcli.config import Profile
from epcli.errors import CapacityError, MediaError, UsageError
from epcli.media.read import read, still_with_sound
from epcli.models import registry
from epcli.models.base import AVModel
from epcli.records import Answer, Clip, Features, KeptStream, Modality, Report
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select

DEFAULT_KEEP = 0.2  # of a selector named without a budget
TRAINING_FREE = "query-aware"  # for a model without a trained sieve
STAGES = ("load", "media", "vision", "audio", "sieve", "prefill", "decode")
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
    return name, Budget.of(profile.keep or DEFAULT_KEEP, profile.budget), notes


def open_model(profile: Profile) -> AVModel:
    """The profile's model, loaded on its device."""
    if profile.threads:
        torch.set_num_threads(profile.threads)
    device = choose_device(profile)
    return registry.load(profile.model, device, choose_dtype(profile, device), profile.quantize)


@dataclass(frozen=True, eq=False)
class Looked:
    """A file decoded and encoded once, ready for any number of questions."""

    clip: Clip
    features: Features
    seconds: dict[str, float]  # of the stages media, vision and audio
    peak_rss: int


class Session:
    """A model and its settings, for one question or many. The model is loaded when first needed."""

    def __init__(self, profile: Profile, on_stage: Callable[[str], None] | None = None) -> None:
        """Raises UsageError if model or device are not to be had."""
        self.profile, self.on_stage = profile, on_stage
        if not (profile.video or profile.audio):
            raise UsageError("--no-video and --no-audio together leave nothing to look at or listen to")
        registry.check_present(profile.model)
        self.device = choose_device(profile)
        self._model: AVModel | None = None

    def load(self, meter: Meter) -> AVModel:
        if self._model is None:
            with meter.stage("load"):
                self._model = open_model(self.profile)
        return self._model

    def look(self, media: Path, start_s: float | None = None, end_s: float | None = None) -> Looked:
        """Decode a file and run the towers. Raises MediaError, UsageError (range), WeightsError or CapacityError."""
        with Meter(self.device, self.on_stage) as meter, _capacity(media):
            with meter.stage("media"):
                clip = read(media, registry.card(self.profile.model).sampling(self.profile), start_s, end_s)
            if clip.frames is None and clip.samples is None:
                there, other = ("sound", "audio") if clip.info.has_audio else ("picture", "video")
                raise MediaError(
                    f"{media.name}: there is only {there}, and it was switched off; leave out --no-{other}"
                )
            return self._encode(clip, meter)

    def look_pair(self, picture: Path, sound: Path) -> Looked:
        """`look` at a still picture and listen to a sound of another file, as one clip. Raises as `look`."""
        if not (self.profile.video and self.profile.audio):
            return self.look(picture if self.profile.video else sound)
        sampling = registry.card(self.profile.model).sampling(self.profile)
        with Meter(self.device, self.on_stage) as meter, _capacity(picture):
            with meter.stage("media"):
                seen = read(picture, replace(sampling, audio=False))
                clip = still_with_sound(seen, read(sound, replace(sampling, video=False)))
            return self._encode(clip, meter)

    def _encode(self, clip: Clip, meter: Meter) -> Looked:
        model = self.load(meter)
        with meter.stage("vision"):
            video = model.encode_video(clip)
        with meter.stage("audio"):
            audio = model.encode_audio(clip)
        return Looked(clip, Features(clip.duration_s, video, audio), meter.seconds, meter.peak_rss)

    def ask(self, looked: Looked, question: str, on_text: Callable[[str], None] | None = None) -> Report:
        """Answer a question about a file that was looked at. Raises UsageError or CapacityError."""
        check_question(question)
        profile, clip = self.profile, looked.clip
        with Meter(self.device, self.on_stage) as meter, _capacity(clip.info.path):
            model = self.load(meter)
            selector, budget, notes = choose_selector(profile, model)
            with meter.stage("prefill"):
                stream = model.stream(looked.features, question, profile.system)
            with meter.stage("sieve"):
                tools = Tools(decoder=model.decoder, sieve=model.sieve, seed=profile.seed)
                kept = select(selector, stream, budget, tools)
            answer, prefill_s = generate.run(
                model,
                kept,
                max_new_tokens=profile.max_new_tokens,
                temperature=profile.temperature,
                seed=profile.seed,
                on_text=on_text,
            )
            meter.seconds["prefill"] += prefill_s
            meter.seconds["decode"] = answer.first_token_s - prefill_s + answer.decode_s
        return _report(question, profile, looked, model, kept, answer, meter, selector, notes)


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
) -> Report:
    """Answer one question about one file. Raises EpError: UsageError, MediaError, WeightsError or CapacityError."""
    check_question(question)
    session = Session(profile, on_stage)
    return session.ask(session.look(media, start_s, end_s), question, on_text)


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
            "frames": 0 if clip.frames is None else len(clip.frames),
            "range_s": [round(t, 3) for t in clip.range_s],
        },
        tokens={
            **counts,
            "keep_ratio": kept_av / all_av if all_av else None,
            "requested": {"keep": profile.keep, "budget": profile.budget},
        },
        timings_s={**seconds, "total": sum(seconds.values())},
        speed={
            "first_token_s": sum(seconds.values()) - answer.decode_s,
            "decode_tokens_per_s": steps / answer.decode_s if steps and answer.decode_s else 0.0,
        },
        generated_tokens=len(answer.token_ids),
        finish_reason=answer.finish_reason,
        memory={
            "peak_rss_bytes": max(looked.peak_rss, meter.peak_rss),
            "peak_device_bytes": meter.peak_device(),
            "kv_cache_bytes": answer.kv_cache_bytes,
        },
        cache={"features": "off"},
        settings=asdict(profile),
        warnings=(*clip.warnings, *notes, *unanswerable(question, clip), *cut_short(answer)),
    )


def count_tokens(kept: KeptStream) -> dict[str, dict[str, int]]:
    """Total and kept tokens of each modality."""
    whole = kept.stream.modality.cpu()
    part = whole[kept.indices.cpu()]
    return {
        m.name.lower(): {"total": int((whole == m).sum()), "kept": int((part == m).sum())}
        for m in (Modality.VIDEO, Modality.AUDIO, Modality.TEXT)
    }


def unanswerable(question: str, clip: Clip) -> list[str]:
    """Warnings about a question for which there are no tokens."""
    words = question.lower()
    name = clip.info.path.name
    found = []
    if clip.samples is None and any(w in words for w in HEARING):
        why = "sound was switched off" if clip.info.has_audio else "the file has no sound"
        found.append(f"{name}: the question is about sound, but {why}")
    if clip.frames is None and any(w in words.split() or w in words for w in SEEING):
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
