"""Writing a trained Qwen2.5-Omni as a whole checkpoint folder, in the layout of the EchoingPixels reference.

`ep ask --model FOLDER` reads it, and so does the reference: published names, the sieve under
`thinker.model.bidir_encoder.*` and `thinker.model.compressor.*`, its settings in `config.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from epcli.errors import EpError
from epcli.models.qwen_omni.hub import INDEX, SMALL
from epcli.models.qwen_omni.model import REFINER, SCORER, thinker_tensors
from epcli.models.qwen_omni.sieve_file import DECODER

SHARD_BYTES = 4_000_000_000


def write_checkpoint(
    base: Path,
    out: Path,
    decoder: dict[str, Tensor],
    sieve: dict[str, Tensor],
    sections: Sequence[int],
    ratio: float = 0.2,
) -> Path:
    """Write `out`, at once or not at all; an earlier one of that name is replaced.

    Args:
        base: checkpoint folder of which everything that was not trained is taken.
        decoder: trained tensors by the decoder's names ("layers.N.…", "norm.weight").
        sieve: whole weights as `Sieve` names them; empty without one.
        sections: of the rotation that was trained with.
        ratio: what the reference reads as its one keep ratio.
    """
    partial = out.with_name(f".{out.name}.part")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for pattern in SMALL:
        for file in base.glob(pattern):
            shutil.copy(file, partial)
    settings = json.loads((base / "config.json").read_text(encoding="utf-8"))
    text = settings.get("thinker_config", settings)["text_config"]
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    if rope is None:
        raise EpError(f"{base}: config.json has no rope_scaling to write the rotary sections into")
    rope["mrope_section"] = list(sections)
    if sieve:
        depth = 1 + max(int(key.split(".")[2]) for key in sieve if key.startswith("refiner.layers."))
        text |= {"av_refiner_layers": depth, "compression_ratio": ratio}
    (partial / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")

    state: dict[str, Any] = thinker_tensors(base)
    for key in list(state):
        if (match := DECODER.match(key)) and match[1] in decoder:
            state[key] = decoder[match[1]]
    for key, value in sieve.items():
        state[key.replace("refiner.", REFINER, 1).replace("scorer.", SCORER, 1)] = value
    shards: list[list[str]] = [[]]
    size = 0
    for key, value in state.items():
        shape = value.shape if isinstance(value, Tensor) else value.get_shape()
        nbytes = 2 * int(torch.Size(shape).numel())
        if size + nbytes > SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += nbytes
    places: dict[str, str] = {}
    for number, keys in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {key: state[key] if isinstance(state[key], Tensor) else state[key][...] for key in keys}
        save_file({key: value.contiguous() for key, value in tensors.items()}, partial / name, {"format": "pt"})
        places |= dict.fromkeys(keys, name)
    (partial / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    old = out.with_name(f".{out.name}.old")
    if out.exists():
        out.replace(old)
    partial.replace(out)
    shutil.rmtree(old, ignore_errors=True)
    return out
