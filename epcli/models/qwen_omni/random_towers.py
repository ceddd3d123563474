"""Towers of a published shape at random weights: their speed does not depend on the values, and needs no download."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

from epcli.models.family import Progress, Source
from epcli.models.qwen_omni.costs import SHAPES
from epcli.models.qwen_omni.family import Qwen
from epcli.models.qwen_omni.inputs import Inputs
from epcli.models.qwen_omni.model import QwenOmni, Thinker


class RandomTowers(Qwen):
    """Loads towers only: the decoder takes no memory, and there is no tokenizer."""

    def __init__(self, layers: int | None) -> None:
        """`layers`: of each tower; None: all."""
        self.layers = layers

    def check_present(self, source: Source) -> None:
        """There is nothing to fetch."""

    def tower_key(self, source: Source, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        return {"family": "random", "shape": source.name, "device": device.type, "dtype": str(dtype)}

    def load(
        self, source: Source, device: torch.device, dtype: torch.dtype, quantize: str, on_progress: Progress = None
    ) -> QwenOmni:
        weights = Thinker(_thinker(source.name, device, dtype, self.layers), None)
        model = QwenOmni(weights, _Inputs(), source.name)
        model.device = device  # that of the towers; the decoder is on none
        return model


@torch.no_grad()
def _thinker(name: str, device: torch.device, dtype: torch.dtype, layers: int | None) -> Any:
    sizes = SHAPES[name]
    vision, audio = dict(sizes.vision), dict(sizes.audio)
    if layers is not None:
        vision["depth"] = audio["encoder_layers"] = layers
    config: Any = Qwen2_5OmniThinkerConfig(
        vision_config=vision, audio_config=audio, text_config={"hidden_size": sizes.decoder.width}
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        thinker: Any = Qwen2_5OmniThinkerForConditionalGeneration(config)
    thinker.to(dtype).eval().requires_grad_(False)
    for name in ("visual", "audio_tower"):
        tower = getattr(thinker.model, name)
        fresh = type(tower)(tower.config)  # its buffers (frequencies, sinusoids) are computed
        fresh.to(device, dtype).eval().requires_grad_(False)
        for parameter in fresh.parameters():
            if parameter.ndim > 1:
                parameter.uniform_(-0.03, 0.03)
        setattr(thinker.model, name, fresh)
    return thinker


class _Inputs(Inputs):
    """The published preprocessing (preprocessor_config.json of Qwen2.5-Omni), without a tokenizer."""

    def __init__(self) -> None:
        self.tokenizer = None
        self.extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
        self.mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
        self.std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
        self.patch, self.merge, self.pair = 14, 2, 2

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset()
