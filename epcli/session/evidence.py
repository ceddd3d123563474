"""Which moments carried the answer: the attention of the answer's tokens to the kept tokens.

The rule, step by step:

1. One more pass of the decoder over the answer, on the cache of keys that the answer was made with. Only the queries of
   the answer's few tokens meet the keys, so no layer's full attention matrix is ever held, whatever the film's length.
2. In the last layers (the last LAYERS of the depth), the softmax over all kept tokens, the mean over heads.
3. The queries are those that chose the answer's tokens. The reference are the queries of the markup before the answer,
   which ask for nothing.
4. A media token's evidence is how much more attention the answer's queries pay it than the reference does, where more.
   Attention sinks draw about the same from every query and fall out.
5. Each modality's tokens that stand out are merged into spans of time and, for the picture, a part of it.

Sources: attention of the answer relative to a neutral query is the relative attention of "MLLMs Know Where to Look"
(arXiv 2502.17422); attention sinks are described in arXiv 2309.17453. Which layers to read was seen on ep-smol. How
often it is right: docs/inspect.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from epcli.compat import caching
from epcli.models.family import AVModel
from epcli.records import Answer, KeptStream, Modality
from epcli.session.kv import masks_that_fit

LAYERS = 1 / 3  # share of the decoder's layers that are read, the last ones
MARKUP = 4  # tokens at the end of the prompt whose queries ask for nothing in particular
RULE = "attention of the answer's tokens in the last third of the layers, less that of the markup before it"


@torch.inference_mode()
def find_evidence(model: AVModel, kept: KeptStream, answer: Answer, cache: DynamicCache) -> np.ndarray:
    """(n,) float32: what each of the stream's sound and picture tokens gave to the answer; 0 for a dropped one.

    Sums to 1; all 0 if there is nothing to tell, as for an answer without words. `cache` is the one that the answer was
    made with; it is used up.
    """
    is_av = kept.stream.modality.cpu() != Modality.TEXT
    places = kept.indices.cpu()
    media = is_av[places]
    carried = torch.zeros(len(is_av))
    if answer.token_ids and media.any():
        total = torch.zeros(int(media.sum()))
        for layer, heed in attention(model, kept, answer, cache, MARKUP):
            if layer >= len(model.decoder.layers) * (1 - LAYERS):
                heed = heed[:, media.to(heed.device)].cpu()
                total += (heed[MARKUP - 1 :] - heed[: MARKUP - 1].mean(0)).clamp(min=0).sum(0)
        carried[places[media]] = total / total.sum().clamp(min=1e-12)
    return carried[is_av].numpy()


@torch.inference_mode()
def attention(
    model: AVModel, kept: KeptStream, answer: Answer, cache: DynamicCache, before: int = 1
) -> Iterator[tuple[int, Tensor]]:
    """Attention of the queries that chose each answer token, layer by layer, over the cache that the answer left.

    Yields (layer, (Q, K) float32), K kept tokens, the mean over heads; 0 where a token left before that layer. The
    first `before` queries are those of the prompt's last tokens; the very last of these chose the answer's first token.
    """
    decoder, length = model.decoder, kept.embeds.shape[0]
    depths = torch.full((length,), len(decoder.layers)) if kept.depths is None else kept.depths.cpu()
    cache.crop(length - before - cache.get_seq_length())  # negative: how many to remove
    ids = torch.tensor([answer.token_ids[:-1]], dtype=torch.int64, device=kept.embeds.device)
    said = decoder.get_input_embeddings()(ids).to(kept.embeds.dtype)
    steps = kept.stream.next_position + torch.arange(ids.shape[1], device=ids.device)
    seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        seen[module.layer_idx] = (hidden, *kwargs["position_embeddings"])

    hooks = [layer.self_attn.register_forward_pre_hook(note, with_kwargs=True) for layer in decoder.layers]
    try:
        with masks_that_fit(decoder, cache):
            decoder(
                inputs_embeds=torch.cat([kept.embeds[None, length - before :], said], 1),
                position_ids=torch.cat([kept.positions[:, None, length - before :], steps.expand(4, 1, -1)], 2),
                attention_mask=None,
                **caching(decoder, cache),
            )
    finally:
        for hook in hooks:
            hook.remove()
    for index, layer in enumerate(decoder.layers):
        stored: Any = cache.layers[index]
        there = depths > index
        heed = _mean_over_heads(layer.self_attn, *seen.pop(index), stored.keys, int(there.sum()), before)
        whole = heed.new_zeros(len(heed), length)
        whole[:, there.to(whole.device)] = heed
        yield index, whole


def _mean_over_heads(
    module: Any, hidden: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, length: int, before: int
) -> Tensor:
    """(1, Q, D) states, (1, Q, d) rotations, (1, G, T, d) keys -> (Q, K) float32, a head at a time to stay small."""
    queries = module.q_proj(hidden)[0].view(hidden.shape[1], -1, module.head_dim).transpose(0, 1).float()
    a, b = queries.chunk(2, dim=-1)
    queries = queries * cos[0].float() + torch.cat([-b, a], dim=-1) * sin[0].float()
    places = torch.arange(keys.shape[2], device=keys.device)
    later = places > places[length - before :, None]
    total = torch.zeros(queries.shape[1], length, device=keys.device)
    for group, key in zip(queries.split(module.num_key_value_groups), keys[0].float(), strict=True):
        for head in group:
            logits = (head @ key.T * module.scaling).masked_fill(later, -torch.inf)
            total += logits.softmax(-1)[:, :length]
    return total / len(queries)
