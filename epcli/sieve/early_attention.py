"""The attention that the text after the clip pays to each token in an early layer of the decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from epcli.compat import caching
from epcli.records import TokenStream

EARLY_LAYER = 2  # the attention of the layer after so many is read, as FastV does


def early_attention(decoder: Any, stream: TokenStream, first: int, chunk: int) -> Tensor:
    """(L,) float32 attention of the tokens from `first` on, in layer EARLY_LAYER, meant over heads and those tokens.

    `chunk` tokens at a time go through the layers before it, with a cache of keys and values as in generation: the same
    states, and memory that grows with the stream by that cache only.
    """
    layer, cache = decoder.layers[EARLY_LAYER], DynamicCache(config=decoder.config)
    embeds = stream.embeds[None]
    cos, sin = decoder.rotary_emb(embeds, stream.positions[:, None])
    places = torch.arange(embeds.shape[1], device=embeds.device)
    keys, queries = [], []
    for begin in range(0, len(places), chunk):
        part = slice(begin, begin + chunk)
        hidden, end = embeds[:, part], min(begin + chunk, len(places))
        mask = None if begin == 0 else (places[:end] <= places[part, None])[None, None]  # none at all: causal
        for early in decoder.layers[:EARLY_LAYER]:
            hidden = early(
                hidden,
                attention_mask=mask,
                position_embeddings=(cos[:, part], sin[:, part]),
                **caching(early, cache),
            )
        normed = layer.input_layernorm(hidden)
        keys.append(layer.self_attn.k_proj(normed))
        queries.append(layer.self_attn.q_proj(normed[:, max(first - begin, 0) :]))
    return _attention(layer.self_attn, torch.cat(queries, 1), torch.cat(keys, 1), cos, sin, places >= first)


def _attention(module: Any, queries: Tensor, keys: Tensor, cos: Tensor, sin: Tensor, asking: Tensor) -> Tensor:
    """(1, T, H d) queries of the `asking` tokens, (1, L, K d) keys -> (L,) float32 attention, the mean of all queries.

    One key head at a time, in float32: a long stream's keys are not repeated for all heads at once.
    """

    def heads(x: Tensor) -> Tensor:
        return x[0].view(x.shape[1], -1, module.head_dim).transpose(0, 1)

    def rotate(x: Tensor, which: Tensor | slice) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * cos[0, which].float() + torch.cat([-b, a], dim=-1) * sin[0, which].float()

    groups = heads(queries).split(module.num_key_value_groups)  # the query heads of each key head
    places = torch.arange(keys.shape[1], device=keys.device)
    later = places > places[asking, None]
    total = torch.zeros(keys.shape[1], device=keys.device)
    for group, key in zip(groups, heads(keys), strict=True):
        turned = rotate(key.float(), slice(None))
        for head in group:
            logits = rotate(head.float(), asking) @ turned.T * module.scaling  # (T, L)
            total += logits.masked_fill(later, -torch.inf).softmax(-1).sum(0)
    return total / (len(groups) * module.num_key_value_groups * queries.shape[1])
