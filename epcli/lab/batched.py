"""Greedy answers to many kept streams at once: those of one at a time, but for rounding, and several times faster.

For question sets only: `generate.run` is what answers users, and what is timed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from epcli.compat import caching
from epcli.models.family import AVModel
from epcli.records import KeptStream
from epcli.session import generate

PADDED = 0.6  # a row shorter than this share of its batch's longest starts another batch
BATCH_TOKENS = 6144  # prompt tokens of a batch, padding included


@torch.inference_mode()
def answers(model: AVModel, streams: Sequence[KeptStream], max_new_tokens: int) -> list[str]:
    """The likeliest answer to each stream, in order."""
    out = [""] * len(streams)
    alone = [i for i, s in enumerate(streams) if s.drops]  # what leaves inside the decoder differs from row to row
    for i in alone:
        out[i] = generate.run(model, streams[i], max_new_tokens=max_new_tokens).answer.text
    rows = [i for i in range(len(streams)) if not streams[i].drops]
    for batch in ([rows[place] for place in some] for some in batches([len(streams[i].embeds) for i in rows])):
        for place, text in zip(batch, _together(model, [streams[i] for i in batch], max_new_tokens), strict=True):
            out[place] = text
    return out


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Places of rows that go together, the longest first."""
    found: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = found and lengths[place] >= PADDED * longest and (len(found[-1]) + 1) * longest <= BATCH_TOKENS
        if fits:
            found[-1].append(place)
        else:
            found.append([place])
            longest = lengths[place]
    return found


def _together(model: AVModel, streams: Sequence[KeptStream], max_new_tokens: int) -> list[str]:
    embeds, positions, mask = _padded(streams)
    after = torch.tensor([s.stream.next_position for s in streams], device=embeds.device)
    table = model.decoder.get_input_embeddings()
    cache = DynamicCache(config=model.decoder.config)
    said: list[list[int]] = [[] for _ in streams]
    rows = list(range(len(streams)))  # those that still speak
    for step in range(max_new_tokens):
        hidden = model.decoder(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=mask,
            **caching(model.decoder, cache),
        ).last_hidden_state[:, -1]
        tokens = model.logits(hidden).argmax(-1)
        going = []
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            if token in model.stop_ids:
                continue
            said[row].append(token)
            if not generate.loops(said[row]):
                going.append(place)
        if not going or step + 1 == max_new_tokens:
            break
        if len(going) < len(rows):
            chosen = torch.tensor(going, device=embeds.device)
            cache.batch_select_indices(chosen)
            tokens, mask = tokens[chosen], None if mask is None else mask[chosen]
            rows = [rows[place] for place in going]
        embeds = table(tokens[:, None]).to(streams[0].embeds.dtype)
        positions = (after[rows] + step).expand(4, 1, -1).mT
        mask = None if mask is None else torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return [model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in said]


def _padded(streams: Sequence[KeptStream]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows padded on the left: (B, K, D), (4, B, K), (B, K) bool; no mask where there is no padding."""
    width = max(len(s.embeds) for s in streams)
    first = streams[0].embeds
    embeds = first.new_zeros(len(streams), width, first.shape[1])
    positions = streams[0].positions.new_zeros(4, len(streams), width)
    mask = torch.zeros(len(streams), width, dtype=torch.bool, device=first.device)
    for row, stream in enumerate(streams):
        size = len(stream.embeds)
        embeds[row, width - size :] = stream.embeds
        positions[:, row, width - size :] = stream.positions
        mask[row, width - size :] = True
    return embeds, positions, None if bool(mask.all()) else mask
