"""Which towers a Qwen2.5-Omni checkpoint has, told by the SHA-256 of their weights and of its settings.

Read off the safetensors files as bytes: without torch, and without the decoder's many gigabytes. The towers of the 3B
and the 7B have 2.6 GB, hashed once; content.py remembers them as long as the files stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from epcli import content
from epcli.errors import WeightsError

TOWER = re.compile(r"(?:^|\.)(?:visual|audio_tower)\.")
SETTINGS = ("config.json", "preprocessor_config.json")
BLOCK = 1 << 22


def of_folder(folder: Path) -> str:
    """SHA-256 over the towers' tensors and the settings that say how to run them. Raises WeightsError."""
    digest = hashlib.sha256()
    try:
        for name in SETTINGS:
            digest.update((folder / name).read_bytes())
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(content.remembered(path, "towers", _of_file).encode())
    except OSError as error:
        raise WeightsError(
            f"{error.filename or folder}: cannot be read: {error.strerror}; fetch the checkpoint again"
        ) from error
    return digest.hexdigest()


def _of_file(path: Path) -> str:
    """SHA-256 of one file's tower tensors, by name; empty if it has none. Raises WeightsError."""
    with path.open("rb") as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, 100_000_000)))
            tensors = {key: value for key, value in header.items() if TOWER.search(key)}
            places = {key: (facts["data_offsets"], facts["dtype"], facts["shape"]) for key, facts in tensors.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path}: not a safetensors file; fetch the checkpoint again") from error
        digest = hashlib.sha256()
        for key, ((begin, end), dtype, shape) in sorted(places.items()):
            digest.update(f"{key} {dtype} {shape} ".encode())
            file.seek(8 + length + begin)
            left = end - begin
            while block := file.read(min(left, BLOCK)):
                digest.update(block)
                left -= len(block)
    return digest.hexdigest() if places else ""
