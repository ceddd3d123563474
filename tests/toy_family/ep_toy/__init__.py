"""A family of models in a package of its own, before its weights are loaded. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from epcli.config import Profile
from epcli.models.costs import Costs, Decoder, Look
from epcli.models.family import AVModel, Card, Shape, Source
from epcli.records import Sampling

DECODER = Decoder(32, 4, 2, 1, 16, 48, 259, biases=True, tied=True)
CARD = Card("toy", "random weights: answers nonsense", "Apache-2.0", 0, DECODER.parameters, "next to no memory")
CELL, SOUND_S = 32, 0.4  # pixels a side of a picture token; seconds of a sound token


class Toy:
    """One model by name, and its like by a folder with a `toy.json`, {"seed": 1}."""

    name = "toy"
    accepts = "a folder with a toy.json"

    def cards(self) -> Sequence[Card]:
        return (CARD,)

    def find(self, text: str) -> Source | None:
        path = Path(text)
        if text and (path / "toy.json").is_file():
            return Source(self, replace(CARD, name=path.resolve().name), path)
        return Source(self, CARD) if text == CARD.name else None

    def status(self, source: Source) -> str:
        return "ready"

    def location(self, source: Source) -> Path:
        return Path(__file__).parent

    def check_present(self, source: Source) -> None:
        pass

    def pull(self, source: Source) -> None:
        pass

    def remove(self, source: Source) -> int:
        return 0

    def sampling(self, profile: Profile) -> Sampling:
        return Sampling(
            fps=profile.fps or 1.0,
            max_frames=profile.max_frames or 8,
            max_pixels=profile.max_pixels or (4 * CELL) ** 2,
            multiple=CELL,
            video=profile.video,
            audio=profile.audio,
            audio_track=profile.audio_track,
            video_track=profile.video_track,
        )

    def tower_key(self, source: Source, device: Any, dtype: Any) -> dict[str, Any]:
        return {"family": self.name, "version": 1}  # averages: no weights, and always in float32

    def costs(self, source: Source, look: Look, number_bytes: int, quantize: str) -> Costs:
        return Costs(
            decoder=DECODER,
            context_tokens=4096,
            sieve_depth=0,
            video_tokens=look.frames * (look.width // CELL) * (look.height // CELL),
            audio_tokens=math.ceil(look.heard_s / SOUND_S),
            language_model=DECODER.parameters * number_bytes,
            towers=0,
            looking=look.width * look.height * 12,
            listening=round(look.heard_s * 64_000),
        )

    def load(
        self,
        source: Source,
        device: Any,
        dtype: Any,
        quantize: str,
        on_progress: Callable[[float], None] | None = None,
    ) -> AVModel:
        from ep_toy.model import ToyModel

        seed = 0 if source.path is None else int(json.loads((source.path / "toy.json").read_text())["seed"])
        return ToyModel(source.name, seed, device, dtype)

    def learner(self, source: Source, order: Any, parts: Any, profile: Profile) -> None:
        return None

    def shapes(self) -> Mapping[str, Shape]:
        return {}


FAMILY = Toy()
