"""Models made ready for the sieve's trainer: what of them is trained, and how the result is written.

LoRA (through peft) on the decoder; the refiner with low rank, on copies of the decoder's first layers, or in full; the
score head always in full. Trained parameters are float32, whatever the model computes in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from epcli.errors import UsageError
from epcli.models import catalog
from epcli.models.qwen_omni import hub, sieve_file
from epcli.models.qwen_omni.model import QwenOmni, sync_sections, thinker_tensors
from epcli.models.qwen_omni.sieve_file import base_tensors
from epcli.models.qwen_omni.write import write_checkpoint
from epcli.models.sieve_weights import LowRank, build_sieve, starting_layers, unfold
from epcli.models.smol.model import LORA_TARGETS, EpSmol, Language, load_adapter
from epcli.session.device import cpu_dtype
from epcli.sieve.select import ScoreHead
from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import install
from epcli.train.attention import use_written_out
from epcli.train.recipe import Shape
from epcli.train.sieve_trainer import Learner

REFINED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_SCALE = 2.0  # alpha / rank


def add_low_rank(module: nn.Module, rank: int, targets: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Put LoRA beside every named linear layer; returns its float32 parameters, `layers.N.….q_proj.{A,B}`."""
    config = LoraConfig(r=rank, lora_alpha=round(LORA_SCALE * rank), target_modules=list(targets))
    inject_adapter_in_model(config, module)
    for tuned in module.modules():
        if isinstance(tuned, LoraLayer):
            tuned.cast_input_dtype_enabled = False  # the trainer's autocast sees to it: products in bfloat16
    found: dict[str, nn.Parameter] = {}
    for name, parameter in module.named_parameters():
        if ".lora_" in name:  # layers.0.self_attn.q_proj.lora_A.default.weight
            parameter.data = parameter.data.float()
            layer, part = name.split(".lora_")
            found[f"{layer}.{part[0]}"] = parameter
    return found


def add_sieve(
    model: Any, shape: Shape, base: Callable[[str], Tensor], names: list[str]
) -> dict[str, dict[str, nn.Parameter]]:
    """Give `model` an untrained sieve; returns its parameters by group, named as in the files.

    `base` and `names` are the base decoder's tensors: before LoRA, not quantized.
    """
    decoder = model.decoder
    layers = starting_layers(base, names, shape.depth, shape.refiner_gain)
    scorer = ScoreHead(decoder.config.hidden_size)
    whole = {f"refiner.{name}": value.clone() for name, value in layers.items()}
    whole |= {f"scorer.{name}": value for name, value in scorer.state_dict().items()}
    sieve: Sieve = build_sieve(whole, decoder, "a new sieve").requires_grad_(False)
    sieve.scorer.float()
    refiner: dict[str, nn.Parameter]
    if shape.refiner_rank:
        refiner = add_low_rank(sieve.refiner, shape.refiner_rank, REFINED)
        for name, parameter in sieve.refiner.named_parameters():
            if "norm" in name:
                parameter.data = parameter.data.float()
                refiner[name] = parameter
    else:
        sieve.refiner.float()
        refiner = dict(sieve.refiner.named_parameters())
    model.sieve = sieve
    return {"refiner": refiner, "scorer": dict(sieve.scorer.named_parameters())}


def qwen_learner(
    name: str,
    shape: Shape,
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
    card = catalog.find(name)
    folder = card.path or hub.folder(card.name)
    if folder.is_file():
        raise UsageError(f"{name}: is the result of a training; give its base model, or go on with --resume")
    model: Any = QwenOmni.open(folder, card.name, device, dtype, "nf4" if method == "qlora" else "none")
    decoder = model.decoder
    model.thinker.requires_grad_(False)
    if device.type == "cpu":
        use_written_out(decoder.config)
    groups: dict[str, dict[str, nn.Parameter]] = {}
    if shape.sieve and model.sieve is not None:
        if shape.refiner_rank:
            raise UsageError(f"{name}: has a trained sieve, which is trained on in full: give --refiner-rank 0")
        model.sieve.float()
        groups["refiner"] = dict(model.sieve.refiner.named_parameters())
        groups["scorer"] = dict(model.sieve.scorer.named_parameters())
    elif shape.sieve:
        install(decoder, sync_sections(decoder, folder))
        base, names = base_tensors(thinker_tensors(folder))
        groups |= add_sieve(model, shape, base, names)
    else:
        model.sieve = None
    if method == "full":
        decoder.layers.float()
        decoder.norm.float()
        trained = [("layers", decoder.layers), ("norm", decoder.norm)]
        groups["decoder"] = {f"{part}.{n}": p for part, module in trained for n, p in module.named_parameters()}
    else:
        decoder.is_loaded_in_4bit = method == "qlora"  # which peft asks
        groups["decoder"] = add_low_rank(decoder, shape.lora_rank, REFINED)
    if gradient_checkpointing:
        for layer in (*decoder.layers, *(model.sieve.refiner.layers if model.sieve is not None else ())):
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            layer.train()  # no layer of this family has dropout
    sections = decoder.rotary_emb.sections

    def save(out: Path, about: dict[str, Any]) -> Path:
        if method == "full":
            values = {key: p.detach().to("cpu", dtype) for key, p in groups["decoder"].items()}
            return write_checkpoint(folder, out / "model", values, whole(), sections)
        path = out / "sieve.safetensors"
        sieve_file.save(
            path,
            base=card.name if card.path is None else str(folder.resolve()),
            folder=folder,
            sieve=stored(groups),
            refiner=low_rank_of(shape) if shape.sieve and shape.refiner_rank else None,
            lora={key: p.detach().bfloat16() for key, p in groups["decoder"].items()},
            lora_scale=LORA_SCALE,
            sections=tuple(sections),
        )
        return path

    def whole() -> dict[str, Tensor]:
        """The sieve's weights in full."""
        held = {key: value.to(dtype) for key, value in stored(groups).items()}
        if not shape.sieve or not shape.refiner_rank:
            return held
        base, names = base_tensors(thinker_tensors(folder))
        return {k: v.to(dtype) for k, v in unfold(held, base, names, low_rank_of(shape), folder).items()}

    return Learner(model, groups, save)


def low_rank_of(shape: Shape) -> LowRank:
    return LowRank(shape.depth, shape.refiner_rank, shape.refiner_gain, LORA_SCALE)


def stored(groups: dict[str, dict[str, nn.Parameter]]) -> dict[str, Tensor]:
    """The sieve's parameters as the files name them, bfloat16."""
    return {
        f"{group}.{name}": parameter.detach().to("cpu", torch.bfloat16).contiguous()
        for group in ("refiner", "scorer")
        for name, parameter in groups.get(group, {}).items()
    }


def take(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    """Begin from values of a file."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def smol_learner(
    start: Path,
    shape: Shape,
    *,
    train_adapter: bool = True,
    threads: int | None = None,
    dtype: torch.dtype | None = None,
) -> Learner:
    """ep-smol from an adapter file, with or without a sieve in it, for training on.

    A sieve that the file holds is trained further, if it has the shape; decoder LoRA keeps the file's rank. The model's
    adapter is `learner.model.adapter`. It computes in `dtype`, if given, else as the processor does best. Raises
    WeightsError.
    """
    if threads:
        torch.set_num_threads(threads)
    adapter, lora, meta = load_adapter(start)
    model: Any = EpSmol(Language(dtype or cpu_dtype()), adapter.requires_grad_(train_adapter), None)
    adapter.freeze_heads()
    use_written_out(model.decoder.config)
    plain = dict(model.decoder.state_dict())  # before LoRA is put beside it
    groups = add_sieve(model, shape, plain.__getitem__, list(plain)) if shape.sieve else {}
    rank = next(v for k, v in lora.items() if k.endswith(".A")).shape[0] if lora else shape.lora_rank
    groups["decoder"] = add_low_rank(model.decoder, rank, LORA_TARGETS)
    if lora:
        take(groups["decoder"], lora)
    groups["adapter"] = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    earlier = meta.get("refiner")
    if shape.sieve and earlier == vars(low_rank_of(shape)):
        values = load_file(start)
        for group in ("refiner", "scorer"):
            take(groups[group], {name: values[f"{group}.{name}"] for name in groups[group]})

    def save(folder: Path, about: dict[str, Any]) -> Path:
        tensors = {k: v.detach().bfloat16().contiguous() for k, v in adapter.state_dict().items()}
        tensors |= {f"lora.{k}": v.detach().bfloat16().contiguous() for k, v in groups["decoder"].items()}
        tensors |= stored(groups)
        known = {**meta, "lora_scale": LORA_SCALE, "sieve_training": about}
        known.pop("refiner", None)
        if shape.sieve:
            known["refiner"] = vars(low_rank_of(shape))
        return write(folder / "adapter.safetensors", tensors, known)

    return Learner(model, groups, save, (adapter,))


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> Path:
    """A safetensors file with our metadata, at once or not at all."""
    temporary = path.with_suffix(".part")
    save_file(tensors, temporary, {"epcli": json.dumps(about)})
    os.replace(temporary, path)
    return path
