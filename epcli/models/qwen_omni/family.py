"""Qwen2.5-Omni before its weights are loaded. No torch at import."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epcli.errors import EpError, WeightsError
from epcli.models.costs import Costs, Look
from epcli.models.family import Card, Progress, Shape, Source
from epcli.models.qwen_omni import costs, folder, hub, tower_weights
from epcli.models.qwen_omni.costs import SHAPES, Omni
from epcli.models.safetensors_header import read_header, trained_metadata
from epcli.records import Sampling

if TYPE_CHECKING:
    import torch

    from epcli.config import Profile
    from epcli.models.qwen_omni.model import QwenOmni
    from epcli.train.examples import Make
    from epcli.train.recipe import Order, TrainedParts
    from epcli.train.sieve_trainer import Learner

CARDS = {
    card.name: card
    for card in (
        Card(
            name="qwen2.5-omni-7b",
            summary="Qwen2.5-Omni-7B without its speech output: sees, hears and reasons; for a GPU",
            licence="Apache-2.0",
            download_bytes=2 * SHAPES["qwen2.5-omni-7b"].parameters,
            parameters=SHAPES["qwen2.5-omni-7b"].parameters,
            needs="about 20 GB of memory, 10 GB with --quantize nf4",
        ),
        Card(
            name="qwen2.5-omni-3b",
            summary="Qwen2.5-Omni-3B without its speech output: the smaller one of the two",
            licence="Qwen Research License: non-commercial use only",
            download_bytes=2 * SHAPES["qwen2.5-omni-3b"].parameters,
            parameters=SHAPES["qwen2.5-omni-3b"].parameters,
            needs="about 11 GB of memory, 7 GB with --quantize nf4",
        ),
    )
}
NOTICES = {  # said each time the model is loaded
    "qwen2.5-omni-3b": "qwen2.5-omni-3b is licensed for non-commercial use only (Qwen Research License)",
}


class Qwen:
    """Published checkpoints by name, checkpoint folders, and sieve files on top of one."""

    name = "qwen2.5-omni"
    accepts = "the folder of a Qwen2.5-Omni checkpoint"

    def cards(self) -> Sequence[Card]:
        return tuple(CARDS.values())

    def find(self, text: str) -> Source | None:
        """A name in any case, the hub's id or address, a checkpoint folder, a folder of the hub's cache, a sieve."""
        if not folder.exists(text):
            if known := folder.known_name(text):
                return Source(self, CARDS[known])
            if refused := folder.refuse_name(text):
                raise refused
            return None
        path = Path(os.path.expanduser(text))
        if path.is_file():
            if "base" not in (trained_metadata(path) or {}):
                raise folder.refuse_file(path)
            return Source(self, _own_card(path.resolve().name, "a sieve on top of Qwen2.5-Omni", [path]), path)
        path = folder.place(path)
        folder.thinker_config(path)
        found = folder.named(path)
        own = _own_card(found, "Qwen2.5-Omni from a folder", path.glob("*.safetensors"))
        return Source(self, CARDS.get(found, own), path)  # in a Hugging Face cache it goes by its name

    def status(self, source: Source) -> str:
        return "ready" if source.path is not None else hub.status(source.name)

    def location(self, source: Source) -> Path:
        return hub.location(source.name)

    def check_present(self, source: Source) -> None:
        folder.look(_checkpoint(source))

    def pull(self, source: Source) -> None:
        hub.pull(source.name)

    def remove(self, source: Source) -> int:
        return hub.remove(source.name)

    def sampling(self, profile: Profile) -> Sampling:
        return costs.sampling(profile)

    def tower_key(self, source: Source, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        weights_sha256 = tower_weights.of_folder(_checkpoint(source))
        return {"family": self.name, "weights": weights_sha256, "device": device.type, "dtype": str(dtype)}

    def costs(self, source: Source, look: Look, number_bytes: int, quantize: str) -> Costs:
        shape, depth = _shape(source)
        return costs.of(shape, depth, look, number_bytes, quantize)

    def load(
        self, source: Source, device: torch.device, dtype: torch.dtype, quantize: str, on_progress: Progress = None
    ) -> QwenOmni:
        if source.name in NOTICES:
            print(f"ep: {NOTICES[source.name]}", file=sys.stderr)
        from epcli.models.qwen_omni.model import QwenOmni

        place = source.path or hub.folder(source.name)
        try:
            return QwenOmni.open(place, source.name, device, dtype, quantize, on_progress)
        except (EpError, RuntimeError, OSError, MemoryError):
            raise
        except Exception as problem:  # the libraries raise anything for settings that make no sense
            why = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            raise WeightsError(
                f"{place}: config.json, the preprocessor's or the tokenizer's files are damaged ({why}); "
                "fetch them again"
            ) from problem

    def learner(self, source: Source, order: Order, parts: TrainedParts, profile: Profile) -> tuple[Learner, Make]:
        from epcli.models.qwen_omni.learner import learner

        return learner(source, order, parts, profile)

    def shapes(self) -> Mapping[str, Shape]:
        return {
            name: Shape(omni.decoder, omni.vision["depth"], partial(_random_towers, name))
            for name, omni in SHAPES.items()
        }


def _random_towers(name: str, layers: int | None) -> Source:
    from epcli.models.qwen_omni.random_towers import RandomTowers

    return Source(RandomTowers(layers), CARDS[name])


def _own_card(name: str, summary: str, files: Iterable[Path]) -> Card:
    return Card(
        name=name,
        summary=summary,
        licence="that of its publisher (of Qwen2.5-Omni-3B and what is made from it: non-commercial use only)",
        download_bytes=0,
        parameters=sum(file.stat().st_size for file in files if file.is_file()) // 2,
        needs="see `ep plan`",
    )


def _checkpoint(source: Source) -> Path:
    """The folder of the weights, of a sieve file that of its base. Raises WeightsError if it is not here."""
    if source.path is None:
        return hub.folder(source.name)
    if source.path.is_dir():
        return source.path
    return folder.sieve_base(source.path, str((trained_metadata(source.path) or {}).get("base", "")))


def _shape(source: Source) -> tuple[Omni, int]:
    """Shape and refiner depth (0: no trained sieve). Raises WeightsError."""
    if source.path is None:
        return SHAPES[source.name], 0
    depth = 0
    if source.path.is_file():
        names = read_header(source.path)[1]
        depth = len({key.split(".")[2] for key in names if key.startswith("refiner.layers.")})
    looked = folder.look(_checkpoint(source))
    return looked.shape, depth or int(looked.config["text_config"].get("av_refiner_layers") or 0)


FAMILY = Qwen()
