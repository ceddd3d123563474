"""The models `ep` knows by name: what they are, what they cost, whether their weights are here. No torch at import."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epcli.errors import UsageError
from epcli.models import weights

if TYPE_CHECKING:
    import torch

    from epcli.config import Profile
    from epcli.models.base import AVModel
    from epcli.records import Sampling


@dataclass(frozen=True)
class ModelCard:
    """One model as `ep models` shows it."""

    name: str
    summary: str
    licence: str
    download_bytes: int
    parameters: int
    needs: str  # memory, in words

    def sampling(self, profile: Profile) -> Sampling:
        """How a file is decoded for this model; known before its weights are loaded."""
        from epcli.models.ep_smol import sampling

        return sampling(profile)


MODELS: dict[str, ModelCard] = {
    "ep-smol": ModelCard(
        name="ep-smol",
        summary="built-in, small: names instruments, animals, things and speech in short clips; runs on any CPU",
        licence="Apache-2.0 and MIT (parts listed in docs/ep-smol.md)",
        download_bytes=188_000_000,
        parameters=150_000_000,
        needs="about 1.5 GB of memory",
    ),
}


def card(name: str) -> ModelCard:
    """Raises UsageError for a name that is not known."""
    if name not in MODELS:
        raise UsageError(f"no model named {name!r}; `ep models ls` lists them: {', '.join(MODELS)}")
    return MODELS[name]


def load(name: str, device: torch.device, dtype: torch.dtype, quantize: str = "none") -> AVModel:
    """The model on its device, its weights fetched if they are not cached. Raises UsageError or WeightsError."""
    card(name)
    if quantize != "none":
        raise UsageError(f"--quantize {quantize}: {name} is too small to be worth it; leave the flag out")
    from epcli.models.ep_smol import EpSmol

    return EpSmol(device, dtype)


def location(name: str) -> Path:
    """The folder that holds, or will hold, a model's weights."""
    card(name)
    return weights.models_dir()


def status(name: str) -> str:
    """ "ready" if every part is in the cache, else "not downloaded"."""
    card(name)
    return "ready" if all(weights.is_cached(part) for part in weights.EP_SMOL_PARTS) else "not downloaded"


def pull(name: str) -> None:
    """Fetch and convert a model's weights ahead of time, checking what is there. Raises WeightsError."""
    card(name)
    weights.fetch(*weights.EP_SMOL_PARTS, verify=True)
    from epcli.models import efficientnet_lite, smollm, whisper, yamnet

    for part in (smollm, yamnet, whisper, efficientnet_lite):
        part.prepare(verify=True)


def remove(name: str) -> int:
    """Delete a model's weights; returns the bytes freed."""
    folder = location(name)
    if not folder.exists():
        return 0
    freed = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    shutil.rmtree(folder)
    return freed
