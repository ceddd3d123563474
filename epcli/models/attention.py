"""Attention for NVIDIA cards before Ampere (compute capability below 8.0: T4, V100, RTX 20).

Without a mask transformers leaves it to torch that several query heads share one of keys. Only flash attention can do
that, and it needs 8.0: on older cards the plain kernel is left, which holds the whole L x L matrix. Here keys and
values are repeated for each query head, so that the memory-efficient kernel takes them; the one query of a decode step
meets them as they are.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

REPEATED = "ep_repeated_keys"
SHARES_KEYS = (8, 0)  # compute capability from which flash attention runs


def attend_repeated(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """(B, H, L, d) queries, (B, G, T, d) keys and values -> (B, L, H, d), as transformers' "sdpa"."""
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    if length == 1 and attention_mask is None and groups < heads:
        tall = query.reshape(batch, groups, heads // groups, size)  # the heads of a group are rows that share its keys
        found = F.scaled_dot_product_attention(tall, key, value, scale=scaling)
        return found.reshape(batch, 1, heads, size), None
    key, value = (each.repeat_interleave(heads // groups, dim=1) for each in (key, value))
    alone: Any = SimpleNamespace(is_causal=module.is_causal)  # a module whose heads share nothing
    return sdpa_attention_forward(alone, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal)


def fit_to_card(decoder: Any, device: torch.device) -> None:
    """Let a decoder, and a refiner made of its config, attend as its card does best."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < SHARES_KEYS:
        use_repeated(decoder.config)


def use_repeated(config: Any) -> None:
    """Let the models that share this config attend by `attend_repeated`."""
    AttentionInterface.register(REPEATED, attend_repeated)
    AttentionMaskInterface.register(REPEATED, sdpa_mask)
    config._attn_implementation = REPEATED
