"""ep-smol before its weights are loaded. No torch at import."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epcli import content
from epcli.errors import UsageError, WeightsError
from epcli.models.costs import Costs, Decoder, Look
from epcli.models.family import Card, Progress, Shape, Source
from epcli.models.safetensors_header import trained_metadata
from epcli.models.smol.adapter_file import ADAPTER
from epcli.observe import weights
from epcli.records import Sampling

if TYPE_CHECKING:
    import torch

    from epcli.config import Profile
    from epcli.models.smol.model import EpSmol
    from epcli.train.examples import Make
    from epcli.train.recipe import Order, TrainedParts
    from epcli.train.sieve_trainer import Learner

CARD = Card(
    name="ep-smol",
    summary="built-in, small: tells people, animals, things, signs, sounds and speech; runs on any CPU",
    licence="Apache-2.0 and MIT (parts listed in docs/ep-smol.md)",
    download_bytes=188_000_000,
    parameters=150_000_000,
    needs="about 1.5 GB of memory",
)
NANODET = Path(weights.__file__).parent / "data" / "nanodet.safetensors"
DECODER = Decoder(576, 30, 9, 3, 64, 1536, 49152, biases=False, tied=True)  # SmolLM2-135M
CONTEXT_TOKENS = 8192
TOWERS = 55_000_000  # parameters of the parts that see and hear and of the adapter, about, in float32
MOST_FRAMES = 64
LOOKING, LISTENING = 150_000_000, 120_000_000  # bytes, about: a few frames, and half a minute of sound, at a time
MULTIPLE = 32  # pixels: width and height of a frame are multiples of it
FRAME_TOKENS = 6  # picture tokens of a frame, about: how many there are is known once it was looked at
AUDIO_STEP_S = 0.12  # of a sound token: 3 position steps; 8.3 tokens a second


class Smol:
    """The built-in family: one model, and adapters that were trained for it."""

    name = "ep-smol"
    accepts = ""

    def cards(self) -> Sequence[Card]:
        return (CARD,)

    def find(self, text: str) -> Source | None:
        if text == CARD.name:
            return Source(self, CARD)
        path = Path(os.path.expanduser(text))
        is_file = bool(text) and os.path.isfile(path)  # pathlib raises for a name that is too long
        if is_file and "heard" in (trained_metadata(path) or {}):  # the names that an adapter knows
            summary = "ep-smol with an adapter of your own"
            return Source(self, replace(CARD, name=path.resolve().name, summary=summary), path)
        return None

    def status(self, source: Source) -> str:
        here = source.path is not None or all(weights.is_cached(part) for part in weights.EP_SMOL_PARTS)
        return "ready" if here else "not downloaded"

    def location(self, source: Source) -> Path:
        return weights.models_dir()

    def check_present(self, source: Source) -> None:
        """`load` fetches what is missing."""

    def pull(self, source: Source) -> None:
        weights.fetch(*weights.EP_SMOL_PARTS, verify=True)
        from epcli.models.smol import smollm
        from epcli.observe import efficientnet_lite, whisper, yamnet

        for part in (smollm, yamnet, whisper, efficientnet_lite):
            part.prepare(verify=True)

    def remove(self, source: Source) -> int:
        folder = self.location(source)
        if not folder.exists():
            return 0
        freed = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        shutil.rmtree(folder)
        return freed

    def sampling(self, profile: Profile) -> Sampling:
        """A frame a second, at most 64, of 640 x 384 pixels or as many: what signs need to be read."""
        return Sampling(
            fps=profile.fps or 1.0,
            max_frames=profile.max_frames or MOST_FRAMES,
            max_pixels=profile.max_pixels or 640 * 384,
            multiple=MULTIPLE,
            video=profile.video,
            audio=profile.audio,
            audio_track=profile.audio_track,
            video_track=profile.video_track,
        )

    def tower_key(self, source: Source, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """The parts are always on the CPU."""
        parts = [part.sha256 for part in weights.EP_SMOL_PARTS]
        return {"family": self.name, "weights": [*parts, content.sha256(NANODET)]}

    def costs(self, source: Source, look: Look, number_bytes: int, quantize: str) -> Costs:
        return Costs(
            decoder=DECODER,
            context_tokens=CONTEXT_TOKENS,
            sieve_depth=_sieve_depth(source.path or ADAPTER),
            video_tokens=look.frames * FRAME_TOKENS,
            video_estimated=True,
            audio_tokens=math.ceil(look.heard_s / AUDIO_STEP_S),
            language_model=DECODER.parameters * number_bytes,
            towers=TOWERS * 4,
            looking=LOOKING,
            listening=LISTENING,
        )

    def load(
        self, source: Source, device: torch.device, dtype: torch.dtype, quantize: str, on_progress: Progress = None
    ) -> EpSmol:
        if quantize != "none":
            raise UsageError(f"--quantize {quantize}: {source.name} is too small to be worth it; leave the flag out")
        from epcli.models.smol.model import EpSmol

        return EpSmol.open(source.path or ADAPTER, source.name, device, dtype)

    def learner(self, source: Source, order: Order, parts: TrainedParts, profile: Profile) -> tuple[Learner, Make]:
        from epcli.models.smol.learner import learner

        return learner(source, order, parts, profile)

    def shapes(self) -> Mapping[str, Shape]:
        return {}


def _sieve_depth(adapter: Path) -> int:
    """Layers of the trained sieve in an adapter; 0 if it holds none. Raises WeightsError."""
    from safetensors import safe_open

    with safe_open(adapter, "np") as file:
        if not any(key.startswith("scorer.") for key in file.keys()):  # noqa: SIM118 (not a dict)
            return 0
        try:
            return int(json.loads(file.metadata()["epcli"])["refiner"]["depth"])
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{adapter.name}: its metadata do not say how its sieve is stored ({error})") from None


FAMILY = Smol()
