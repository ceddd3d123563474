"""Where a model computes, and in which number format."""

from __future__ import annotations

from pathlib import Path

import torch

from epcli.config import Profile
from epcli.errors import UsageError


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
    """bfloat16 where the hardware computes in it, else float32: in float16 Qwen's models overflow."""
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if profile.dtype != "auto":
        return named[profile.dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "mps":
        return torch.bfloat16 if torch.backends.mps.is_macos_or_newer(14, 0) else torch.float32
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
