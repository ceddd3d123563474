"""What a question about a file would cost: tokens, context and memory, before any weights are loaded.

Sizes come from the file's header and the model's config; the formulas, and which of them are exact, are in
docs/memory.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from epcli.config import Profile
from epcli.errors import MediaError, UsageError, WeightsError
from epcli.media.plan import fit_size, frame_count, with_room
from epcli.media.probe import probe
from epcli.models import catalog, costs
from epcli.models.costs import Omni
from epcli.models.qwen_omni.folder import look
from epcli.records import REFINER_DEPTH, SAMPLE_RATE, MediaInfo
from epcli.text import format_time, visible_json

PLAN_SCHEMA = 1
TEXT_TOKENS = 64  # chat markup and a question of a line or two
LIBRARIES_BYTES = 450_000_000  # of the process before any weights: Python, torch, transformers (measured on CPU)
CUDA_CONTEXT_BYTES = 500_000_000  # of a CUDA process before any weights (an assumption, not measured)
AUDIO_WINDOW_S = 300.0
VISION_BATCH_PATCHES = 8192


@dataclass(frozen=True)
class Plan:
    """The costs of one question. Bytes are estimates but for weights, sieve and kv_cache, which are exact."""

    model: str
    selector: str
    device: str
    dtype: str
    quantize: str
    media: dict[str, Any]
    tokens: dict[str, dict[str, int]]  # by modality: total and kept
    context: dict[str, Any]  # used, limit, fits
    memory: dict[str, int]  # bytes by what needs them
    stages: dict[str, int]  # bytes at the peak of each stage
    available: dict[str, Any]  # bytes and what they are; fits is None where the device is not here
    advice: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def peak(self) -> int:
        return max(self.stages.values())

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `ep plan --json`."""
        body = {name: getattr(self, name) for name in self.__dataclass_fields__}
        lists = {name: list(body.pop(name)) for name in ("advice", "notes")}
        return {"schema": PLAN_SCHEMA, **body, "peak_bytes": self.peak, **lists}


def plan(
    media: Path,
    profile: Profile,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    memory_bytes: int | None = None,
) -> Plan:
    """Work out the costs of a question about a file under these settings.

    `memory_bytes`: plan for this much memory instead of what is free on the device here. Raises MediaError, UsageError
    or WeightsError for a file, setting or model that cannot be used.
    """
    info = probe(media, video_track=profile.video_track if profile.video else None)
    start, end = start_s or 0.0, info.duration_s if end_s is None else min(end_s, info.duration_s)
    if start >= end and not info.is_image:
        length = format_time(info.duration_s)  # as `ep ask` says it
        raise MediaError(f"{media.name}: a start at {format_time(start)} is past the end; the file is {length} long")
    made = _cost(info, end - start, profile, memory_bytes)
    return replace(made, advice=tuple(_advice(made, info, end - start, profile, memory_bytes)))


def _cost(info: MediaInfo, duration_s: float, profile: Profile, memory_bytes: int | None) -> Plan:
    from epcli.session.selection import budget_of, default_selector
    from epcli.sieve.selector import CHUNK_TOKENS, WINDOW_TOKENS

    card = catalog.card(profile.model)
    sampling = card.sampling(profile)
    device, dtype = _device_and_dtype(profile)
    e, notes = costs.BYTES[dtype], []

    # What is looked at and heard.
    sees, hears = profile.video and info.has_video, profile.audio and info.has_audio
    width = height = frames = 0
    if sees:
        sampling = with_room(sampling, info, duration_s)
        width, height = fit_size(info.width, info.height, sampling.max_pixels, sampling.multiple)
        frames = 1 if info.is_image else frame_count(duration_s, sampling.fps, sampling.max_frames)
    if card.family == "qwen2.5-omni":
        shape, depth = _omni(card)
        decoder, context = shape.decoder, shape.context_tokens
        video = math.ceil(frames / 2) * (width // costs.CELL) * (height // costs.CELL)
        audio = costs.audio_tokens(math.ceil(duration_s * 100)) if hears else 0
        layers, tables = decoder.layers_bytes(e, profile.quantize), decoder.tables * e
        towers = shape.tower_parameters * e
        patches = (width // 14) * (height // 14)
        batch = min(math.ceil(frames / 2) * patches, max(VISION_BATCH_PATCHES, 2 * patches))
        looking = shape.vision_activation_bytes(batch, e)
        window = min(duration_s, AUDIO_WINDOW_S) if hears else 0
        listening = shape.audio_activation_bytes(math.ceil(window * 100), e)
    else:
        decoder, context, depth = costs.SMOL, costs.SMOL_CONTEXT, _smol_depth(card)
        video = frames * (width // 64) * (height // 64)
        audio = math.ceil(duration_s / 0.12) if hears else 0
        layers, tables = decoder.layers_bytes(e), decoder.tables * e
        towers, looking, listening = costs.SMOL_TOWERS * 4, costs.SMOL_LOOKING, costs.SMOL_LISTENING

    # What stays.
    media_tokens = video + audio
    selector = profile.selector or default_selector(profile, trained=depth > 0)
    kept = media_tokens
    if selector != "none" and media_tokens:
        if profile.keep == "auto" and profile.budget is None:
            notes.append("--keep auto decides by the clip; planned as if everything were kept")
        else:
            kept = budget_of(profile).count(media_tokens)
    kept_video = round(kept * video / media_tokens) if media_tokens else 0
    if 0 < kept < media_tokens:
        notes.append(
            "how the kept tokens divide between picture and sound is the selector's choice; shown in proportion"
        )
    if selector == "cs2" and not depth:
        notes.append(f"{card.name} has no trained sieve that could be seen; cs2 is planned at its published depth")
        depth = REFINER_DEPTH

    # Memory. Every stage has the weights; what else it holds is added below.
    whole, stay = media_tokens + TEXT_TOKENS, kept + TEXT_TOKENS
    sieve = decoder.sieve_parameters(depth) * e if selector == "cs2" else 0
    embeds = whole * decoder.width * e
    choosing = 0
    if selector == "cs2":
        seen = min(media_tokens, WINDOW_TOKENS) + TEXT_TOKENS
        choosing = embeds + decoder.activation_bytes(seen, e)
    elif selector == "query-aware":
        # The cache of two layers and the keys of the third; a chunk's activations; keys and values for all heads.
        early = 5 * whole * decoder.kv_heads * decoder.head * e
        seen = min(whole, CHUNK_TOKENS)
        repeated = 2 * whole * decoder.heads * decoder.head * e + seen * whole if whole > seen else 0
        choosing = early + decoder.activation_bytes(seen, e) + repeated
    prefill = stay * decoder.width * e + decoder.activation_bytes(stay, e)
    cache = decoder.kv_bytes(stay + profile.max_new_tokens, e)
    pixels, samples = frames * width * height * 3, round(duration_s * SAMPLE_RATE) * 4 if hears else 0
    memory = {
        "language_model": layers + tables,
        "towers": towers,
        "sieve": sieve,
        "frames_and_samples": pixels + samples,
        "looking": looking if frames else 0,
        "listening": listening,
        "token_embeddings": embeds,
        "choosing": choosing,
        "prefill": prefill,
        "kv_cache": cache,
    }
    on_gpu = device == "cuda"
    base = layers + tables + towers + sieve + (CUDA_CONTEXT_BYTES if on_gpu else LIBRARIES_BYTES)
    host = 0 if on_gpu else pixels + samples + embeds  # tower outputs wait in host memory
    stages = {
        "vision": base + host + memory["looking"],
        "audio": base + host + listening,
        "sieve": base + host + embeds + choosing,
        "prefill": base + host + embeds + prefill + decoder.kv_bytes(stay, e),
        "decode": base + host + embeds + cache,
    }
    free, what = _free(device, memory_bytes)
    used = stay + profile.max_new_tokens
    return Plan(
        model=card.name,
        selector=selector,
        device=device,
        dtype=dtype,
        quantize=profile.quantize,
        media={
            "path": str(info.path),
            "duration_s": round(duration_s, 3),
            "frames": frames,
            "frame_size": [width, height],
            "has_video": info.has_video,
            "has_audio": info.has_audio,
        },
        tokens={
            "video": {"total": video, "kept": kept_video},
            "audio": {"total": audio, "kept": kept - kept_video},
            "text": {"total": TEXT_TOKENS, "kept": TEXT_TOKENS},
        },
        context={"used": used, "limit": context, "fits": used <= context},
        memory=memory,
        stages=stages,
        available={"bytes": free, "what": what, "fits": None if free is None else max(stages.values()) <= free},
        advice=(),
        notes=tuple(notes),
    )


def _advice(
    made: Plan, info: MediaInfo, duration_s: float, profile: Profile, memory_bytes: int | None
) -> Iterator[str]:
    """What to change, tried out: the first of each kind that helps."""

    def helps(better: Callable[[Plan], bool], **settings: Any) -> Plan | None:
        try:
            other = _cost(info, duration_s, replace(profile, **settings), memory_bytes)
        except UsageError:
            return None
        return other if better(other) else None

    shares = [
        share for share in (0.5, 0.2, 0.1, 0.05, 0.02) if not isinstance(profile.keep, float) or share < profile.keep
    ]
    if not made.context["fits"]:
        for share in shares:
            if helps(lambda other: other.context["fits"], keep=share, budget=None):
                yield f"--keep {share:g} fits the context"
                break
        frames = made.media["frames"]
        while frames > 2:
            frames //= 2
            if helps(lambda other: other.context["fits"], max_frames=frames):
                yield f"--max-frames {frames} fits the context"
                break
    if made.available["fits"] is False:

        def fits(other: Plan) -> bool:
            return bool(other.available["fits"])

        tries: list[dict[str, Any]] = [{"quantize": kind} for kind in ("int8", "nf4") if profile.quantize == "none"]
        tries += [{"keep": share, "budget": None} for share in shares]
        tries += [{"quantize": "nf4", "keep": share, "budget": None} for share in shares if profile.quantize == "none"]
        tries += [
            {"model": name, "quantize": "nf4"} for name in ("qwen2.5-omni-3b",) if made.model == "qwen2.5-omni-7b"
        ]
        tries += [{"model": "ep-smol", "quantize": "none"}] if made.model != "ep-smol" else []
        for settings in tries:
            if other := helps(fits, **settings):
                flags = " ".join(
                    f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"
                    for name, value in settings.items()
                    if value is not None
                )
                yield f"{flags} fits: {other.peak / 1e9:.1f} GB"
                break
        if made.device == "cuda":
            yield "without a change, layers that do not fit stay in host memory, which is slower"


def _omni(card: catalog.ModelCard) -> tuple[Omni, int]:
    """Shape and refiner depth (0: no trained sieve). Raises WeightsError."""
    if card.path is None:
        return costs.SHAPES[card.name], 0
    folder, depth = card.path, 0
    if folder.is_file():
        from epcli.models.sieve_file import SieveFile

        file = SieveFile.read(folder)
        folder = file.base_folder()
        depth = len({key.split(".")[2] for key in file.sieve if key.startswith("refiner.layers.")})
    looked = look(folder)
    return looked.shape, depth or int(looked.config["text_config"].get("av_refiner_layers") or 0)


def _smol_depth(card: catalog.ModelCard) -> int:
    """Layers of the trained sieve in an adapter of ep-smol; 0 if it holds none. Raises WeightsError."""
    from safetensors import safe_open

    from epcli.models.sieve_weights import LowRank
    from epcli.models.smol.model import ADAPTER

    path = card.path or ADAPTER
    with safe_open(path, "pt") as file:
        if not any(key.startswith("scorer.") for key in file.keys()):  # noqa: SIM118 (not a dict)
            return 0
        try:
            return LowRank.of(json.loads(file.metadata()["epcli"])["refiner"]).depth
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path.name}: its metadata do not say how its sieve is stored ({error})") from None


def _device_and_dtype(profile: Profile) -> tuple[str, str]:
    """Kind of device and number format. A GPU that is not here is planned for in bfloat16."""
    from epcli.session.device import choose_device, choose_dtype

    try:
        device = choose_device(profile)
    except UsageError:
        return profile.device, profile.dtype if profile.dtype != "auto" else "bf16"
    return device.type, str(choose_dtype(profile, device)).removeprefix("torch.")


def _free(device: str, memory_bytes: int | None) -> tuple[int | None, str]:
    """Bytes to plan for, and what they are; None where the device is not here."""
    if memory_bytes is not None:
        return memory_bytes, "given with --memory"
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return None, "no CUDA device here; give its memory with --memory"
        return int(torch.cuda.mem_get_info()[0]), "free on the GPU"
    return int(psutil.virtual_memory().available), "free in this machine"


def to_json(made: Plan) -> str:
    """One JSON object, indented."""
    return visible_json(json.dumps(made.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
