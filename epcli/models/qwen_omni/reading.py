"""Reading a checkpoint's tensors one by one, with word of how far it is.

Tensors that stay as they are come from safetensors' memory map, which costs no copy. Those that will be quantized are
read from the file into memory of their own, which is given back after each: pages of a map stay with the process, and
would hold the unquantized model beside the quantized one.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epcli.errors import WeightsError
from epcli.models.family import Progress
from epcli.models.safetensors_header import read_header

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TRIM_BYTES = 256_000_000  # read between two times that freed memory is given back


class UnmappedTensor:
    """A tensor of a safetensors file, read without a memory map when it is indexed; else as safetensors' slices."""

    def __init__(self, path: Path, start: int, shape: tuple[int, ...], dtype: str) -> None:
        """`start`: the tensor's first byte in the file."""
        self.path, self.start, self.shape, self.dtype = path, start, shape, dtype

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def get_dtype(self) -> str:
        return self.dtype

    def __getitem__(self, index: Any) -> Tensor:
        """Raises WeightsError if the file ends early or cannot be read."""
        whole = torch.empty(self.shape, dtype=DTYPES[self.dtype])
        left = memoryview(whole.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start)
                while left and (count := file.readinto(left)):
                    left = left[count:]
        except OSError as error:
            raise WeightsError(f"{self.path}: cannot be read: {error.strerror}; fetch it again") from error
        if left:
            raise WeightsError(f"{self.path}: is cut off; fetch it again")
        return whole[index]


class TrackedTensor:
    """A slice that tells the bytes of its tensor each time it is read."""

    def __init__(self, part: Any, on_read: Callable[[int], None]) -> None:
        self.part, self.on_read = part, on_read

    def get_shape(self) -> list[int]:
        return self.part.get_shape()

    def get_dtype(self) -> str:
        return self.part.get_dtype()

    def __getitem__(self, index: Any) -> Tensor:
        found: Tensor = self.part[index]
        self.on_read(found.nbytes)
        return found


def unmapped(paths: list[Path]) -> dict[str, UnmappedTensor]:
    """The tensors of safetensors files by name, to be read without a map. Raises WeightsError."""
    found = {}
    for path in paths:
        _, tensors = read_header(path)
        for key, facts in tensors.items():
            if facts.dtype in DTYPES:
                found[key] = UnmappedTensor(path, facts.start, facts.shape, facts.dtype)
    return found


def tracked(state: dict[str, Any], on_progress: Progress, *, trims: bool) -> dict[str, Any]:
    """The same tensors, telling the share of all bytes read so far; `trims`: giving freed memory back on the way."""
    known = [part for part in state.values() if part.get_dtype() in DTYPES]
    total = sum(math.prod(part.get_shape()) * DTYPES[part.get_dtype()].itemsize for part in known)
    read, trimmed = 0, 0

    def on_read(count: int) -> None:
        nonlocal read, trimmed
        read += count
        if trims and read - trimmed >= TRIM_BYTES:
            trimmed = read
            trim()
        if on_progress:
            on_progress(min(read / max(total, 1), 1.0))

    return {key: TrackedTensor(part, on_read) for key, part in state.items()}


def trim() -> None:
    """Give memory that was freed back to the system, where the C library keeps it (glibc)."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another system or C library
        return
