"""The refiner: every token looks at every other before any is dropped (cross-modal encoder of CS2, arXiv 2512.10324).

N = 4 decoder layers, copied from the first N of the language model itself, run without the causal mask. Sound, picture
and text refine each other, so the score of a token knows the question and the other sense. Pre-norm layers as in the
decoder, no final norm after them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from epcli.records import REFINER_DEPTH


class Refiner(nn.Module):
    """Decoder layers of any transformers family, run bidirectionally. It changes `layers`: hand over copies.

    `config` is the decoder's, shared, so that the refiner follows its choice of attention kernel.
    """

    def __init__(self, layers: Sequence[nn.Module], config: Any) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(layers)
        attention: Any
        for attention in self.layers.modules():
            if hasattr(attention, "is_causal"):  # with nothing to mask, SDPA and flash kernels go by this flag
                attention.is_causal = False

    @classmethod
    def copied_from(cls, decoder: Any, depth: int = REFINER_DEPTH) -> Refiner:
        """Deep copies of the first `depth` layers of a transformers text model; with 0 it changes nothing."""
        memo = {id(decoder.config): decoder.config}  # the one thing not to copy
        return cls([copy.deepcopy(layer, memo) for layer in decoder.layers[:depth]], decoder.config)

    def forward(self, embeds: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor) -> Tensor:
        """Refined states.

        Args:
            embeds: (B, L, D).
            rotation: cos and sin, (B, L, head_dim) each, at the tokens' original positions.
            keys: (B, L) bool, the tokens that may be attended to; the others (padding, and in training the answer,
                which must not leak into the selection) keep their embeddings.

        Returns:
            (B, L, D).
        """
        mask = self.mask(embeds, keys)
        hidden = embeds
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotation)
        return torch.where(keys.unsqueeze(-1), hidden, embeds)

    def mask(self, embeds: Tensor, keys: Tensor) -> Any:
        """Who sees whom: everything sees all of `keys`. In the form that the config's kernel reads."""
        return create_bidirectional_mask(self.config, embeds, keys)
