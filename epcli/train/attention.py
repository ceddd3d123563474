"""Attention written out, for training on a CPU.

torch's CPU kernel for the backward pass of scaled_dot_product_attention in bfloat16 is slow on short rows. Forward and
backward of one layer of SmolLM2 (9 heads of 64), one core, milliseconds of processor time, kernel / written out:
100 tokens causal 4.1 / 1.9, 200 causal 7.5 / 8.2, 560 both ways 43 / 29. Registered with transformers under NAME.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "ep_written_out"
LONG_CAUSAL = 160  # tokens; the kernel skips the half that is masked, which pays from here on


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """(B, H, L, d) queries, (B, KV, L, d) keys and values -> (B, L, H, d). `attention_mask`: bool or additive.

    Scores and softmax are float32, as in the kernels. Query heads that share a key head are one tall matrix, so keys
    and values are not repeated.
    """
    batch, heads, length, width = query.shape
    shared = key.shape[1]
    causal = attention_mask is None and bool(module.is_causal if is_causal is None else is_causal)
    if causal and length > LONG_CAUSAL:
        return sdpa_attention_forward(module, query, key, value, None, scaling=scaling, is_causal=True)
    with torch.autocast(query.device.type, enabled=False):
        tall = query.reshape(batch, shared, -1, width)
        scores = tall.float() @ key.float().transpose(-1, -2) * (scaling or width**-0.5)
        scores = scores.view(batch, heads, length, -1)
        if attention_mask is not None:
            hidden = ~attention_mask if attention_mask.dtype == torch.bool else attention_mask == -torch.inf
            scores = scores.masked_fill(hidden, -torch.inf)
        elif causal:
            later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu_(1)
            scores = scores.masked_fill(later, -torch.inf)
        shares = scores.softmax(-1).to(value.dtype).view(batch, shared, -1, scores.shape[-1])
        out = (shares @ value).view(batch, heads, length, width)
    return out.transpose(1, 2).contiguous(), None


def use_written_out(config: Any) -> None:
    """Let the models that share this config attend so. For training only: there is no cache and no padding here."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
