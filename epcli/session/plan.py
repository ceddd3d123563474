"""What a question about a file would cost: tokens, context and memory, before any weights are loaded.

Sizes come from the file's header and the model's config; the formulas, and which of them are exact, are in
docs/memory.md.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import psutil

from epcli.config import Profile
from epcli.errors import MediaError, UsageError
from epcli.media.probe import probe
from epcli.media.sampling import fit_size, frame_count, with_room
from epcli.models import catalog, costs
from epcli.models.costs import HELD_BYTES, Costs, Look
from epcli.records import (
    REFINER_DEPTH,
    SAMPLE_RATE,
    AvailableMemory,
    ContextUse,
    MediaInfo,
    Plan,
    PlannedMedia,
    PlannedMemory,
    Sampling,
    StagePeaks,
    TokenCount,
    TokenCounts,
)
from epcli.session.advice import advice
from epcli.text import format_time

TEXT_TOKENS = 64  # chat markup and a question of a line or two
LIBRARIES_BYTES = 450_000_000  # of the process before any weights: Python, torch, transformers (measured on CPU)
CUDA_CONTEXT_BYTES = 500_000_000  # of a CUDA process before any weights (an assumption, not measured)


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
    return plan_of(info, end - start, profile, memory_bytes)


def plan_of(info: MediaInfo, duration_s: float, profile: Profile, memory_bytes: int | None = None) -> Plan:
    """`plan` for a file that was probed, of which `duration_s` are looked at. Raises UsageError or WeightsError."""
    made = _cost(info, duration_s, profile, memory_bytes)
    return replace(made, advice=advice(made, profile, lambda other: _cost(info, duration_s, other, memory_bytes)))


def _cost(info: MediaInfo, duration_s: float, profile: Profile, memory_bytes: int | None) -> Plan:
    """The plan without advice."""
    from epcli.session.selection import default_selector

    source = catalog.find(profile.model)
    device, dtype = _device_and_dtype(profile)
    number_bytes = costs.BYTES[dtype]
    look = _look(info, duration_s, profile, source.family.sampling(profile))
    needs = source.family.costs(source, look, number_bytes, profile.quantize)
    selector = profile.selector or default_selector(profile, trained=needs.sieve_depth > 0)
    tokens, notes = _kept(needs, selector, profile)
    if selector == "cs2" and not needs.sieve_depth:
        notes.append(f"{source.name} has no trained sieve that could be seen; cs2 is planned at its published depth")
        needs = replace(needs, sieve_depth=REFINER_DEPTH)
    if needs.video_estimated and needs.video_tokens:
        notes.append(
            f"how many picture tokens there are depends on what is seen; {needs.video_tokens:,} is an estimate"
        )
    memory = _memory(look, needs, tokens, selector, number_bytes, profile.max_new_tokens)
    stay = tokens.media.kept + TEXT_TOKENS
    stages = _peaks(memory, needs.decoder.kv_bytes(stay, number_bytes), on_gpu=device == "cuda")
    used = stay + profile.max_new_tokens
    free, what = _free(device, memory_bytes)
    return Plan(
        model=source.name,
        selector=selector,
        device=device,
        dtype=dtype,
        quantize=profile.quantize,
        media=PlannedMedia(
            path=str(info.path),
            duration_s=round(duration_s, 3),
            frames=look.frames,
            frame_size=(look.width, look.height),
            has_video=info.has_video,
            has_audio=info.has_audio,
        ),
        tokens=tokens,
        context=ContextUse(used, needs.context_tokens, fits=used <= needs.context_tokens),
        memory=memory,
        stages=stages,
        available=AvailableMemory(free, what, fits=None if free is None else max(asdict(stages).values()) <= free),
        advice=(),
        notes=tuple(notes),
    )


def _look(info: MediaInfo, duration_s: float, profile: Profile, sampling: Sampling) -> Look:
    """What is looked at and heard."""
    width = height = frames = 0
    if profile.video and info.has_video:
        sampling = with_room(sampling, info, duration_s)
        width, height = fit_size(info.width, info.height, sampling.max_pixels, sampling.multiple)
        frames = 1 if info.is_image else frame_count(duration_s, sampling.fps, sampling.max_frames)
    return Look(frames, width, height, duration_s if profile.audio and info.has_audio else 0.0)


def _kept(needs: Costs, selector: str, profile: Profile) -> tuple[TokenCounts, list[str]]:
    """Tokens before and after the selector, and what there is to say about them."""
    from epcli.session.selection import budget_of
    from epcli.sieve.selectors import SELECTORS

    video, audio, notes = needs.video_tokens, needs.audio_tokens, []
    total = kept = video + audio
    if selector != "none" and total:
        if profile.keep == "auto" and profile.budget is None:
            notes.append("--keep auto decides by the clip; planned as if everything were kept")
        else:
            kept = budget_of(profile).count(total)
    if SELECTORS[selector].drops_inside and kept < total:
        return _entering(needs, kept)
    if 0 < kept < total:
        notes.append(
            "how the kept tokens divide between picture and sound is the selector's choice; shown in proportion"
        )
    kept_video = round(kept * video / total) if total else 0
    text = TokenCount(TEXT_TOKENS, TEXT_TOKENS)
    return TokenCounts(TokenCount(video, kept_video), TokenCount(audio, kept - kept_video), text), notes


def _entering(needs: Costs, mean: int) -> tuple[TokenCounts, list[str]]:
    """What enters the decoder so that `mean` media tokens are in its layers on average."""
    from epcli.sieve.seats.schedule import layers_note, schedule_for_mean

    video, audio = needs.video_tokens, needs.audio_tokens
    schedule = schedule_for_mean(needs.decoder.layers, mean / (video + audio), video, audio)
    counts = [TokenCount(n, round(n * share)) for n, share in zip((video, audio), schedule.entering, strict=True)]
    enter = counts[0].kept + counts[1].kept
    notes = [
        f"{enter:,} sound and picture tokens enter the language model and leave inside it; {mean:,} "
        f"({mean / (video + audio):.1%}) are in its layers on average",
        *layers_note(needs.decoder.layers),
    ]
    return TokenCounts(counts[0], counts[1], TokenCount(TEXT_TOKENS, TEXT_TOKENS)), notes if schedule.drops else []


def _memory(
    look: Look, needs: Costs, tokens: TokenCounts, selector: str, number_bytes: int, new_tokens: int
) -> PlannedMemory:
    """Bytes by what needs them."""
    decoder, media = needs.decoder, tokens.media
    stay = media.kept + TEXT_TOKENS
    pixels, samples = look.frames * look.width * look.height * 3, round(look.heard_s * SAMPLE_RATE) * 4
    return PlannedMemory(
        language_model=needs.language_model,
        towers=needs.towers,
        sieve=decoder.sieve_parameters(needs.sieve_depth) * number_bytes if selector == "cs2" else 0,
        frames_and_samples=pixels + samples,
        looking=needs.looking if look.frames else 0,
        listening=needs.listening,
        token_embeddings=(media.total + TEXT_TOKENS) * decoder.width * number_bytes,
        choosing=_choosing(needs, selector, media.total, number_bytes),
        prefill=stay * decoder.width * number_bytes + decoder.activation_bytes(stay, number_bytes),
        kv_cache=decoder.kv_bytes(stay + new_tokens, number_bytes),
    )


def _choosing(needs: Costs, selector: str, media_tokens: int, number_bytes: int) -> int:
    """Bytes that the selector needs besides the weights and the embeddings."""
    from epcli.sieve.seats.diversity import TOKENS_AT_ONCE
    from epcli.sieve.selector import CHUNK_TOKENS, WINDOW_TOKENS

    decoder, whole = needs.decoder, media_tokens + TEXT_TOKENS
    if selector == "cs2":
        seen = min(media_tokens, WINDOW_TOKENS) + TEXT_TOKENS
        return whole * decoder.width * number_bytes + decoder.activation_bytes(seen, number_bytes)
    if selector == "query-aware":
        # The cache of two layers and the keys of the third; a chunk's activations; keys and values for all heads.
        early = 5 * whole * decoder.kv_heads * decoder.head * number_bytes
        seen = min(whole, CHUNK_TOKENS)
        repeated = 2 * whole * decoder.heads * decoder.head * number_bytes + seen * whole if whole > seen else 0
        return early + decoder.activation_bytes(seen, number_bytes) + repeated
    if selector == "seats":
        # One sense's embeddings; of some windows at a time a copy in float32, unit vectors and distances.
        seen = min(media_tokens, TOKENS_AT_ONCE)
        return media_tokens * decoder.width * number_bytes + 3 * seen * decoder.width * 4
    return 0


def _peaks(memory: PlannedMemory, prompt_cache: int, *, on_gpu: bool) -> StagePeaks:
    """Every stage has the weights; what else it holds is added. `prompt_cache`: bytes of the KV cache after prefill."""
    base = memory.language_model + memory.towers + memory.sieve + (CUDA_CONTEXT_BYTES if on_gpu else LIBRARIES_BYTES)
    embeds = memory.token_embeddings
    # Tower outputs wait in host memory; those of a short clip stay on the GPU for the next question.
    host = embeds * (embeds <= HELD_BYTES) if on_gpu else memory.frames_and_samples + embeds
    return StagePeaks(
        vision=base + host + memory.looking,
        audio=base + host + memory.listening,
        sieve=base + host + embeds + memory.choosing,
        prefill=base + host + embeds + memory.prefill + prompt_cache,
        decode=base + host + embeds + memory.kv_cache,
    )


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
