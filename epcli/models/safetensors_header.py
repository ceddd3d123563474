"""What the header of a safetensors file says, read without torch and without its tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from epcli.errors import WeightsError

HEADER_BYTES = 100_000_000  # safetensors' own limit


class Stored(NamedTuple):
    """One tensor of a safetensors file, as its header has it."""

    shape: tuple[int, ...]
    dtype: str  # "BF16", "F32", ...
    start: int  # its first byte in the file


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Metadata, and shape and number format by tensor name, of a safetensors file.

    Raises WeightsError for a file that is empty, cut off, or something else.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= min(size, HEADER_BYTES) else b""
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; fetch it again") from error
    if not size:
        raise WeightsError(f"{path}: is empty; fetch it again")
    if length == int.from_bytes(b"version ", "little"):
        raise WeightsError(f"{path}: is a pointer of Git LFS, not the weights; run `git lfs pull` in its folder")
    if len(text) < length:
        raise WeightsError(f"{path}: is cut off, or no safetensors file; fetch it again")
    try:
        header = json.loads(text)
        about = header.pop("__metadata__", {})
        tensors = {
            key: Stored(tuple(facts["shape"]), str(facts["dtype"]), 8 + length + int(facts["data_offsets"][0]))
            for key, facts in header.items()
        }
        end = 8 + length + max((facts["data_offsets"][1] for facts in header.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise WeightsError(f"{path}: is damaged, or no safetensors file; fetch it again") from error
    if size < end:
        raise WeightsError(f"{path}: is cut off: {size:,} of {end:,} bytes are here; fetch it again")
    if size > end:
        raise WeightsError(f"{path}: is damaged: {size - end:,} bytes longer than its header says; fetch it again")
    return about, tensors


def trained_metadata(path: Path) -> dict[str, Any] | None:
    """What a file that `ep train` made says of itself; None for any other file."""
    try:
        about = json.loads(read_header(path)[0]["epcli"])
    except (WeightsError, ValueError, KeyError, TypeError):
        return None
    return about if isinstance(about, dict) else None
