"""How far into the decoder tokens came, told after prefill."""

from __future__ import annotations

import torch
from torch import Tensor

from epcli.records import KeptStream, Modality


def token_depths(kept: KeptStream, layers: int) -> Tensor:
    """(L,) int64 decoder layers that each token of the whole stream passed; 0 for one that never entered."""
    depths = torch.zeros(len(kept.stream.modality), dtype=torch.int64)
    depths[kept.indices.cpu()] = layers if kept.depths is None else kept.depths.cpu()
    return depths


def layer_lengths(kept: KeptStream, layers: int) -> list[int]:
    """How many tokens each layer saw, text included."""
    depths = token_depths(kept, layers)
    return [int((depths > layer).sum()) for layer in range(layers)]


def mean_keep(kept: KeptStream, layers: int) -> float | None:
    """Share of the media tokens that the layers saw, the mean over them; None without media."""
    media = kept.stream.modality.cpu() != Modality.TEXT
    if not media.any():
        return None
    return float(token_depths(kept, layers)[media].double().mean() / layers)
