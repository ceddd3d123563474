"""Where a model's weights go, and in what form: device, host memory, 4 or 8 bits (bitsandbytes).

Only the linear layers of the decoder are quantized. Towers, embeddings, output head and sieve stay as they are: the
modules to skip are named by their full dotted paths, `lm_head` among them, since a list of ours replaces transformers'
default (transformers #45674), and version 5 matches paths from their start, so that a bare "visual" skips nothing.
"""

from __future__ import annotations

import logging
from typing import Any

import psutil
import torch

from epcli.errors import CapacityError, UsageError
from epcli.models.qwen_omni.costs import Omni

SKIPPED = ("model.audio_tower", "model.visual", "lm_head")
GPU_SHARE = 0.85  # of the free GPU memory that weights may take, the rest is for activations and the KV cache


def settings(quantization: str, dtype: torch.dtype, *, offload: bool = False) -> Any | None:
    """transformers' quantization config for "nf4" or "int8"; None for "none"."""
    if quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses an optional CPU kernel, of no use to the user
    return BitsAndBytesConfig(
        load_in_4bit=quantization == "nf4",
        load_in_8bit=quantization == "int8",
        llm_int8_skip_modules=list(SKIPPED),
        llm_int8_enable_fp32_cpu_offload=offload,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def placement(config: Any, device: torch.device, dtype: torch.dtype, quantization: str) -> dict[str, Any]:
    """Arguments for `from_pretrained`: device map and quantization.

    A GPU that the weights do not fit keeps what it can hold, and accelerate fetches the other layers from host memory
    when they are due (slower: the weights travel at every step). This path has not been run on a GPU.

    Raises UsageError where quantization does not run, CapacityError if the weights fit nowhere.
    """
    if quantization != "none" and device.type not in ("cpu", "cuda"):
        raise UsageError(f"--quantize {quantization} runs on cuda and cpu, not on {device.type}; leave the flag out")
    need = Omni.of(config.to_dict()).weights_bytes(dtype.itemsize, quantization)
    host = psutil.virtual_memory().available
    if device.type == "cpu" and need > host:
        raise CapacityError(_too_large(need, "host memory", host))
    if device.type == "cuda":
        gpu = int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE)
        if need > gpu:
            if need > gpu + host:
                raise CapacityError(_too_large(need, "GPU and host memory", gpu + host))
            limits: dict[int | str, int] = {device.index or 0: gpu, "cpu": host}
            return {
                "device_map": "auto",
                "max_memory": limits,
                "quantization_config": settings(quantization, dtype, offload=True),
            }
    if device.type == "cpu" and quantization == "none":
        return {}
    return {"device_map": {"": device}, "quantization_config": settings(quantization, dtype)}


def _too_large(need: int, where: str, there: int) -> str:
    return (
        f"the weights need {need / 1e9:.1f} GB, and {where} has {there / 1e9:.1f} GB free; "
        "try --quantize nf4, or a smaller model"
    )


def main_device(model: torch.nn.Module) -> torch.device:
    """Where the model computes: with offloading, the GPU."""
    places = getattr(model, "hf_device_map", {}).values()
    gpu = next((place for place in places if str(place) not in ("cpu", "disk")), None)
    if gpu is not None:
        return torch.device(f"cuda:{gpu}" if isinstance(gpu, int) else gpu)
    return next(model.parameters()).device
