"""Our own sieve files: safetensors holding only what was trained, on top of a base model that stays as it is.

    refiner.layers.N.…            the refiner, names as in a decoder layer; low-rank {A,B} as in sieve_weights.py
    scorer.ln.weight, scorer.score_head.{0,2}.{weight,bias}
    lora.layers.N.….q_proj.{A,B}  optional: a low-rank change of the decoder, W + scale * B A

The metadata (key `epcli`, JSON) names the base model, the SHA-256 of it, the rotary sections and the scale. A file is
used as `--model FILE`; its base is the checkpoint folder it lies in, else the named model of `ep models list`, else the
folder that it was saved with.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from epcli.errors import WeightsError
from epcli.models.qwen_omni.folder import sieve_base
from epcli.models.sieve_weights import LowRank, unfold
from epcli.sieve.sieve import Sieve

FORMAT = 1
DECODER = re.compile(
    r"^(?:thinker\.)?model\.(?:language_model\.)?((?:layers\.\d+|norm)\..*)$"
)  # keys, as published or not


@dataclass(frozen=True, eq=False)
class SieveFile:
    """A sieve file's contents, on the CPU."""

    path: Path
    base: str  # a name of `ep models list`, or a folder
    base_sha256: str  # `fingerprint` of the base
    sections: tuple[int, ...]  # Sync-RoPE's [T, H, W, T]
    sieve: dict[str, Tensor]  # as `Sieve` names them
    lora: dict[str, Tensor]  # "layers.N.….A" (r, in) and ".B" (out, r)
    lora_scale: float
    refiner: LowRank | None = None  # how a refiner of low rank is put together; None: it is stored whole

    @classmethod
    def read(cls, path: Path, *, tensors: bool = True) -> SieveFile:
        """Raises WeightsError if the file is not one of ours. `tensors=False` reads only what it says about itself."""
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["epcli"])
                found = {key: file.get_tensor(key) for key in (file.keys() if tensors else ())}
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']}")
            return cls(
                path,
                about["base"],
                about["base_sha256"],
                tuple(about["sections"]),
                {key: value for key, value in found.items() if key.startswith(("refiner.", "scorer."))},
                {key.removeprefix("lora."): value for key, value in found.items() if key.startswith("lora.")},
                float(about["lora_scale"]),
                LowRank.of(about["refiner"]) if about.get("refiner") else None,
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{path}: not a sieve file of epcli ({type(error).__name__}); give one, or a model's name or folder"
            ) from error

    def base_folder(self) -> Path:
        """The folder of the model that this sieve sits on. Raises WeightsError if it is not here."""
        return sieve_base(self.path, self.base)

    def check_base(self, folder: Path) -> None:
        """Raises WeightsError unless the folder holds the very model that the sieve was trained on."""
        if fingerprint(folder) != self.base_sha256:
            raise WeightsError(f"{self.path}: was trained on another model than {folder}; it belongs to {self.base}")

    def whole_sieve(self, state: dict[str, Any]) -> dict[str, Tensor]:
        """The sieve's weights, a low-rank refiner unfolded on a base's tensors, which must not be changed yet.

        Raises WeightsError if they do not fit the base.
        """
        if self.refiner is None or not self.sieve:
            return self.sieve
        base, names = base_tensors(state)
        return unfold(self.sieve, base, names, self.refiner, self.path)

    def change(self, state: dict[str, Any]) -> None:
        """Add the low-rank change to a checkpoint's tensors, each when it is read, so before any quantization."""
        names = {match[1]: key for key in state if (match := DECODER.match(key))}
        for key in self.lora:
            if not key.endswith(".A"):
                continue
            target = names.get(f"{key[:-2]}.weight")
            if target is None or f"{key[:-2]}.B" not in self.lora:
                raise WeightsError(f"{self.path}: changes {key[:-2]}, which its base does not have")
            state[target] = _Changed(state[target], self.lora[key], self.lora[f"{key[:-2]}.B"], self.lora_scale)


def base_tensors(state: dict[str, Any]) -> tuple[Callable[[str], Tensor], list[str]]:
    """A checkpoint's decoder tensors by the decoder's own names ("layers.N.…"), read when asked for; and the names."""
    names = {match[1]: key for key in state if (match := DECODER.match(key))}
    return lambda name: state[names[name]][...], list(names)


def save(
    path: Path,
    *,
    base: str,
    folder: Path,
    sieve: Sieve | dict[str, Tensor] | None,
    refiner: LowRank | None = None,
    lora: dict[str, Tensor] | None = None,
    lora_scale: float = 1.0,
    sections: tuple[int, ...],
) -> None:
    """Write a sieve file for the model `base`, whose weights are in `folder`; `lora` as `SieveFile.lora` has it.

    `sieve`: whole, or tensors as `SieveFile.sieve` has them, of low rank if `refiner` says so.
    """
    weights = sieve.state_dict() if isinstance(sieve, Sieve) else sieve or {}
    tensors = {key: value for key, value in weights.items() if not key.startswith("rope.")}
    tensors |= {f"lora.{key}": value for key, value in (lora or {}).items()}
    about = {
        "format": FORMAT,
        "base": base,
        "base_sha256": fingerprint(folder),
        "sections": list(sections),
        "lora_scale": lora_scale,
        "refiner": None if refiner is None else asdict(refiner),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
            temporary,
            {"format": "pt", "epcli": json.dumps(about)},
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fingerprint(folder: Path) -> str:
    """SHA-256 over name, shape and first row of every tensor of the decoder's layers, in order of names.

    It tells models of one shape apart without reading all their gigabytes, and is the same for a checkpoint in one
    file, in shards, with or without talker. Raises WeightsError.
    """
    rows: dict[str, tuple[list[int], bytes]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                if "epcli" in (file.metadata() or {}):
                    continue
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    if match := DECODER.match(key):
                        part = file.get_slice(key)
                        first = part[:1].contiguous().view(torch.uint8).numpy().tobytes()
                        rows[match[1]] = (list(part.get_shape()), first)
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"{path}: cannot be read ({type(error).__name__}); fetch the checkpoint again"
            ) from error
    digest = hashlib.sha256()
    for name, (shape, first) in sorted(rows.items()):
        digest.update(f"{name} {shape} ".encode() + first)
    return digest.hexdigest()


class _Changed:
    """A checkpoint's tensor plus scale * B A, computed when it is read; what safetensors' slices offer."""

    def __init__(self, base: Any, a: Tensor, b: Tensor, scale: float) -> None:
        self.base, self.a, self.b, self.scale = base, a, b, scale

    def get_shape(self) -> list[int]:
        return self.base.get_shape()

    def get_dtype(self) -> str:
        return self.base.get_dtype()

    def __getitem__(self, index: Any) -> Tensor:
        whole = self.base[...]
        change = self.b.float() @ self.a.float() * self.scale
        return (whole.float() + change).to(whole.dtype)[index]
