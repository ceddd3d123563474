"""Qwen2.5-Omni made ready for `ep train`: decoder and sieve learn together; towers, embeddings and output head stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.models import catalog
from epcli.models.family import Source
from epcli.models.qwen_omni import hub, sieve_file
from epcli.models.qwen_omni.model import QwenOmni, Thinker, sync_sections, thinker_tensors
from epcli.models.qwen_omni.sieve_file import base_tensors
from epcli.models.qwen_omni.write import write_checkpoint
from epcli.models.sieve_weights import unfold
from epcli.questions.evidence import evidence_tokens
from epcli.questions.record import Evidence
from epcli.records import Features
from epcli.session.device import choose_device, choose_dtype
from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import install
from epcli.train.attention import use_written_out
from epcli.train.examples import Example, Make, rows
from epcli.train.learners import LORA_SCALE, REFINED, add_low_rank, add_sieve, low_rank_of, stored
from epcli.train.recipe import Order, TrainedParts
from epcli.train.sieve_trainer import Learner


def learner(source: Source, order: Order, parts: TrainedParts, profile: Profile) -> tuple[Learner, Make]:
    """As `Family.learner`."""
    device = choose_device(profile)
    dtype = choose_dtype(profile, device)
    made = qwen_learner(
        profile.model, parts, order.method, device, dtype, gradient_checkpointing=order.gradient_checkpointing
    )
    return made, lambda features, asked: qwen_items(made.model, features, rows(asked), profile.system)


def qwen_learner(
    name: str,
    parts: TrainedParts,
    method: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    gradient_checkpointing: bool = True,
) -> Learner:
    """Qwen2.5-Omni for training: towers, embeddings and output head stay as they are.

    Args:
        name: of `ep models ls`, or a checkpoint folder. One that holds a sieve is trained on in full.
        method: "lora"; "qlora", whose decoder is NF4 below the LoRA; "full", the decoder's layers themselves.
        dtype: to compute in.
        gradient_checkpointing: layers run twice, and their inner states need no memory.

    The result is a sieve file, or with "full" a checkpoint folder in the reference's layout. Raises UsageError,
    WeightsError or CapacityError.
    """
    source = catalog.find(name)
    folder = source.path or hub.folder(source.name)
    if folder.is_file():
        raise UsageError(f"{name}: is the result of a training; give its base model, or go on with --resume")
    opened = QwenOmni.open(folder, source.name, device, dtype, "nf4" if method == "qlora" else "none")
    decoder = opened.decoder
    opened.thinker.requires_grad_(False)
    if device.type == "cpu":
        use_written_out(decoder.config)
    sieve, groups = _sieve_to_train(name, folder, opened, parts)
    groups["decoder"] = _decoder_to_train(decoder, method, parts.lora_rank)
    if gradient_checkpointing:
        _recompute((*decoder.layers, *(sieve.refiner.layers if sieve is not None else ())))
    sections = decoder.rotary_emb.sections

    def save(out: Path, about: dict[str, Any]) -> Path:
        if method == "full":
            values = {key: p.detach().to("cpu", dtype) for key, p in groups["decoder"].items()}
            return write_checkpoint(folder, out / "model", values, whole(), sections)
        path = out / "sieve.safetensors"
        sieve_file.save(
            path,
            base=source.name if source.path is None else str(folder.resolve()),
            folder=folder,
            sieve=stored(groups),
            refiner=low_rank_of(parts) if parts.sieve and parts.refiner_rank else None,
            lora={key: p.detach().bfloat16() for key, p in groups["decoder"].items()},
            lora_scale=LORA_SCALE,
            sections=tuple(sections),
        )
        return path

    def whole() -> dict[str, Tensor]:
        """The sieve's weights in full."""
        held = {key: value.to(dtype) for key, value in stored(groups).items()}
        if not parts.sieve or not parts.refiner_rank:
            return held
        base, names = base_tensors(thinker_tensors(folder))
        return {k: v.to(dtype) for k, v in unfold(held, base, names, low_rank_of(parts), folder).items()}

    model = QwenOmni(Thinker(opened.thinker, sieve), opened.inputs, opened.name)
    return Learner(model, groups, save)


def _sieve_to_train(
    name: str, folder: Path, opened: QwenOmni, parts: TrainedParts
) -> tuple[Sieve | None, dict[str, dict[str, nn.Parameter]]]:
    """The checkpoint's own sieve, a new one, or none; and its parameters by group."""
    sieve, decoder = opened.sieve, opened.decoder
    if not parts.sieve:
        return None, {}
    if sieve is None:
        install(decoder, sync_sections(decoder, folder))
        base, names = base_tensors(thinker_tensors(folder))
        return add_sieve(decoder, parts, base, names)
    if parts.refiner_rank:
        raise UsageError(f"{name}: has a trained sieve, which is trained on in full: give --refiner-rank 0")
    sieve.float()
    groups = {"refiner": dict(sieve.refiner.named_parameters()), "scorer": dict(sieve.scorer.named_parameters())}
    return sieve, groups


def _decoder_to_train(decoder: Any, method: str, rank: int) -> dict[str, nn.Parameter]:
    """The decoder's parameters that learn: its layers with "full", else a low-rank change of them."""
    if method != "full":
        decoder.is_loaded_in_4bit = method == "qlora"  # which peft asks
        return add_low_rank(decoder, rank, REFINED)
    decoder.layers.float()
    decoder.norm.float()
    trained = [("layers", decoder.layers), ("norm", decoder.norm)]
    return {f"{part}.{n}": p for part, module in trained for n, p in module.named_parameters()}


def _recompute(layers: Iterable[Any]) -> None:
    """Gradient checkpointing: run the layers again in the backward pass instead of holding their inner states."""
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.train()  # no layer of this family has dropout


def qwen_items(
    model: Any,
    features: Features,
    questions: Sequence[tuple[str, str, str, Sequence[Evidence] | None]],
    system: str | None = None,
) -> list[Example]:
    """Qwen2.5-Omni's items of one clip. Towers and embeddings are frozen, so nothing before the decoder learns."""
    items = []
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for kind, question, answer, evidence in questions:
        made = model.stream(features, question, system)
        # Copies: what was made in inference mode cannot take part in a backward pass.
        stream = replace(
            made,
            embeds=made.embeds.clone(),
            positions=made.positions.clone(),
            modality=made.modality.clone(),
            spans_s=made.spans_s.clone(),
            cells=made.cells.clone(),
        )
        said = torch.tensor([*model.inputs.encode(answer.strip()), end], device=stream.embeds.device)
        items.append(Example(stream, said, None if evidence is None else evidence_tokens(stream, evidence), kind))
    return items
