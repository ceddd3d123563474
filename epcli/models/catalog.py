"""The models `ep` knows by name: what they are, what they cost, whether their weights are here. No torch at import."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from epcli import content
from epcli.errors import UsageError, WeightsError
from epcli.models import costs
from epcli.models.qwen_omni import folder, hub, tower_weights
from epcli.models.smol import weights

if TYPE_CHECKING:
    import torch

    from epcli.config import Profile
    from epcli.models.family import AVModel
    from epcli.records import Sampling


class Card(Protocol):
    """What is known of a model before it is loaded, as far as looking at a file needs it."""

    @property
    def name(self) -> str: ...

    def sampling(self, profile: Profile) -> Sampling:
        """How a file is decoded for this model."""
        ...

    def towers(self, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """What makes a clip's features, as JSON types: for the feature cache."""
        ...


@dataclass(frozen=True)
class ModelCard:
    """One model as `ep models` shows it."""

    name: str
    summary: str
    licence: str
    download_bytes: int
    parameters: int
    needs: str  # memory, in words
    family: str = "ep-smol"  # or "qwen2.5-omni"
    notice: str = ""  # said each time the model is used
    path: Path | None = None  # of a model that was given as a folder or a sieve file

    def sampling(self, profile: Profile) -> Sampling:
        """How a file is decoded for this model; known before its weights are loaded."""
        if self.family == "qwen2.5-omni":
            return costs.sampling(profile)
        from epcli.models.smol.model import sampling

        return sampling(profile)

    def towers(self, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """What makes a clip's features: the towers' weights and number format. Known before the weights are loaded.

        What is trained behind the towers (an adapter of ep-smol, a sieve, LoRA) and quantization make no difference.
        Raises WeightsError.
        """
        if self.family == "qwen2.5-omni":
            weights_sha256 = tower_weights.of_folder(checkpoint(self))
            return {"family": self.family, "weights": weights_sha256, "device": device.type, "dtype": str(dtype)}
        from epcli.models.smol.model import TUNED

        parts = [part.sha256 for part in weights.EP_SMOL_PARTS]
        return {"family": self.family, "weights": [*parts, content.sha256(TUNED)]}  # always on the CPU, in float32


MODELS: dict[str, ModelCard] = {
    "ep-smol": ModelCard(
        name="ep-smol",
        summary="built-in, small: names instruments, animals, things and speech in short clips; runs on any CPU",
        licence="Apache-2.0 and MIT (parts listed in docs/ep-smol.md)",
        download_bytes=188_000_000,
        parameters=150_000_000,
        needs="about 1.5 GB of memory",
    ),
    "qwen2.5-omni-7b": ModelCard(
        name="qwen2.5-omni-7b",
        summary="Qwen2.5-Omni-7B without its speech output: sees, hears and reasons; for a GPU",
        licence="Apache-2.0",
        download_bytes=2 * costs.SHAPES["qwen2.5-omni-7b"].parameters,
        parameters=costs.SHAPES["qwen2.5-omni-7b"].parameters,
        needs="about 20 GB of memory, 10 GB with --quantize nf4",
        family="qwen2.5-omni",
    ),
    "qwen2.5-omni-3b": ModelCard(
        name="qwen2.5-omni-3b",
        summary="Qwen2.5-Omni-3B without its speech output: the smaller one of the two",
        licence="Qwen Research License: non-commercial use only",
        download_bytes=2 * costs.SHAPES["qwen2.5-omni-3b"].parameters,
        parameters=costs.SHAPES["qwen2.5-omni-3b"].parameters,
        needs="about 11 GB of memory, 7 GB with --quantize nf4",
        family="qwen2.5-omni",
        notice="qwen2.5-omni-3b is licensed for non-commercial use only (Qwen Research License)",
    ),
}


def card(name: str) -> ModelCard:
    """A model by its name, its id on the hub, the folder of a Qwen2.5-Omni checkpoint, or a sieve file on top of one.

    A folder is only identified here; `check_present` looks whether it is whole. Raises UsageError for a name that is
    not known, WeightsError for a file or folder that is something else.
    """
    if name in MODELS:
        return MODELS[name]
    if not folder.exists(name):
        if known := folder.known_name(name):
            return MODELS[known]
        raise folder.refuse_name(name, ", ".join(MODELS))
    path = Path(name).expanduser()
    if path.is_file():
        return _file_card(path)
    path = folder.place(path)
    folder.thinker_config(path)
    found = folder.named(path)
    if found in MODELS:  # in a Hugging Face cache
        return replace(MODELS[found], path=path)
    return _own_card(path, found, "Qwen2.5-Omni from a folder", path.glob("*.safetensors"))


def _file_card(path: Path) -> ModelCard:
    """An adapter of ep-smol, or a sieve on top of Qwen2.5-Omni. Raises WeightsError for another file."""
    about = folder.trained_metadata(path)
    if about is None:
        raise folder.refuse_file(path)
    if "seen" in about:  # the names that ep-smol's adapter knows; a sieve file has none
        summary = "ep-smol with an adapter of your own"
        return replace(MODELS["ep-smol"], name=path.resolve().name, summary=summary, path=path)
    return _own_card(path, path.resolve().name, "a sieve on top of Qwen2.5-Omni", [path])


def _own_card(path: Path, name: str, summary: str, files: Iterable[Path]) -> ModelCard:
    return ModelCard(
        name=name,
        summary=summary,
        licence="that of its publisher (of Qwen2.5-Omni-3B and what is made from it: non-commercial use only)",
        download_bytes=0,
        parameters=sum(file.stat().st_size for file in files if file.is_file()) // 2,
        needs="see `ep plan`",
        family="qwen2.5-omni",
        path=path,
    )


def check_present(name: str) -> None:
    """Raises WeightsError for a model that must be pulled first or is not whole, before any file is decoded.

    Reads no weights and imports no torch. UsageError as `card`.
    """
    entry = card(name)
    if entry.family == "qwen2.5-omni":
        folder.look(checkpoint(entry))


def checkpoint(entry: ModelCard) -> Path:
    """The folder of a Qwen2.5-Omni, of a sieve file that of its base. Raises WeightsError if it is not here."""
    if entry.path is None:
        return hub.folder(entry.name)
    if entry.path.is_dir():
        return entry.path
    return folder.sieve_base(entry.path, str((folder.trained_metadata(entry.path) or {}).get("base", "")))


def load(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    quantize: str = "none",
    on_progress: Callable[[float], None] | None = None,
) -> AVModel:
    """The model on its device, its weights fetched if they are not cached. Raises UsageError or WeightsError.

    `on_progress`: called with the share of a large model's weights that was read, 0 to 1.
    """
    entry = card(name)
    if entry.family == "qwen2.5-omni":
        if entry.notice:
            print(f"ep: {entry.notice}", file=sys.stderr)
        place = entry.path or hub.folder(entry.name)
        from epcli.models.qwen_omni.model import QwenOmni

        return QwenOmni.open(place, entry.name, device, dtype, quantize, on_progress)
    if quantize != "none":
        raise UsageError(f"--quantize {quantize}: {name} is too small to be worth it; leave the flag out")
    from epcli.models.smol.model import ADAPTER, EpSmol

    return EpSmol(device, dtype, entry.path or ADAPTER)


def location(name: str) -> Path:
    """The folder that holds, or will hold, a model's weights."""
    entry = card(name)
    if entry.path is not None:
        return entry.path
    return hub.location(entry.name) if entry.name in hub.REPOS else weights.models_dir()


def status(name: str) -> str:
    """ "ready" if every part is here and whole, else what is wrong: "partly downloaded", "not downloaded", or a line.

    Raises as `card`.
    """
    entry = card(name)
    if entry.family == "qwen2.5-omni":
        if entry.path is None and (there := hub.status(entry.name)) != "ready":
            return there
        try:
            check_present(name)
        except WeightsError as error:
            return f"cannot be used: {error}"
        return "ready"
    if entry.path is not None:
        return "ready"
    return "ready" if all(weights.is_cached(part) for part in weights.EP_SMOL_PARTS) else "not downloaded"


def pull(name: str) -> None:
    """Fetch and convert a model's weights ahead of time, checking what is there. Raises WeightsError or UsageError."""
    entry = _refuse_path(name)
    if entry.name in hub.REPOS:
        hub.pull(entry.name)
        return
    weights.fetch(*weights.EP_SMOL_PARTS, verify=True)
    from epcli.models.smol import efficientnet_lite, smollm, whisper, yamnet

    for part in (smollm, yamnet, whisper, efficientnet_lite):
        part.prepare(verify=True)


def remove(name: str) -> int:
    """Delete a model's weights; returns the bytes freed. Raises UsageError."""
    entry = _refuse_path(name)
    if entry.name in hub.REPOS:
        return hub.remove(entry.name)
    place = location(name)
    if not place.exists():
        return 0
    freed = sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
    shutil.rmtree(place)
    return freed


def _refuse_path(name: str) -> ModelCard:
    """Files that the user brought are neither fetched nor deleted here."""
    entry = card(name)
    if entry.path is not None:
        raise UsageError(f"{name}: is a model of your own; only those of `ep models list` are fetched and deleted here")
    return entry
