"""Parts of which a family makes its models ready for the sieve's trainer: what is trained, and how it is written.

LoRA (through peft) on the decoder; the refiner with low rank, on copies of the decoder's first layers, or in full; the
score head always in full. Trained parameters are float32, whatever the model computes in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from epcli.models.sieve_weights import LowRank, build_sieve, starting_layers
from epcli.sieve.select import ScoreHead
from epcli.sieve.sieve import Sieve
from epcli.train.recipe import TrainedParts

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
    decoder: Any, parts: TrainedParts, base: Callable[[str], Tensor], names: list[str]
) -> tuple[Sieve, dict[str, dict[str, nn.Parameter]]]:
    """An untrained sieve for a decoder, and its parameters by group, named as in the files.

    `base` and `names` are the base decoder's tensors: before LoRA, not quantized.
    """
    layers = starting_layers(base, names, parts.depth, parts.refiner_gain)
    scorer = ScoreHead(decoder.config.hidden_size)
    whole = {f"refiner.{name}": value.clone() for name, value in layers.items()}
    whole |= {f"scorer.{name}": value for name, value in scorer.state_dict().items()}
    sieve: Sieve = build_sieve(whole, decoder, "a new sieve").requires_grad_(False)
    sieve.scorer.float()
    refiner: dict[str, nn.Parameter]
    if parts.refiner_rank:
        refiner = add_low_rank(sieve.refiner, parts.refiner_rank, REFINED)
        for name, parameter in sieve.refiner.named_parameters():
            if "norm" in name:
                parameter.data = parameter.data.float()
                refiner[name] = parameter
    else:
        sieve.refiner.float()
        refiner = dict(sieve.refiner.named_parameters())
    return sieve, {"refiner": refiner, "scorer": dict(sieve.scorer.named_parameters())}


def low_rank_of(parts: TrainedParts) -> LowRank:
    return LowRank(parts.depth, parts.refiner_rank, parts.refiner_gain, LORA_SCALE)


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


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> Path:
    """A safetensors file with our metadata, at once or not at all."""
    temporary = path.with_suffix(".part")
    save_file(tensors, temporary, {"epcli": json.dumps(about)})
    os.replace(temporary, path)
    return path
