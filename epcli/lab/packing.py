"""Prefix-shared packing: a clip's tokens once, each of its questions attending to the clip and to itself alone.

Several scenes stand one after another in one row without padding; a mask keeps them apart. One pass over a clip so
supervises all its answers. Only without a sieve: with one, the question takes part in what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from epcli.models.layout import Segment, text
from epcli.models.smol.model import embed_ids, prompt_ids

IGNORED = -100


@dataclass(frozen=True, eq=False)
class Pack:
    """One training row of L tokens."""

    embeds: Tensor  # (L, D) float32, carries gradients to the adapter
    positions: Tensor  # (4, L) int64
    allowed: Tensor  # (L, L) bool, row attends to column
    labels: Tensor  # (L,) int64: the id that this token must predict, or IGNORED
    weights: Tensor  # (L,) float32 weight of each label
    question: Tensor  # (L,) int64 running number of the question a label belongs to


def pack(
    table: Tensor,
    tokenizer: Any,
    scenes: Sequence[tuple[Segment, Sequence[tuple[str, str]]]],
    system: str | None = None,
) -> Pack:
    """Scenes, each a media segment whose positions start after the prompt's head, with (question, answer) pairs."""
    embeds, positions, scene_of, block_of, labels, weights, number = [], [], [], [], [], [], []
    asked = 0
    for index, (media, pairs) in enumerate(scenes):
        before, _ = prompt_ids(tokenizer, "", system)
        head = text(embed_ids(table, before), 0)
        for segment in (head, media):
            embeds.append(segment.embeds)
            positions.append(segment.positions)
        shared = len(before) + media.embeds.shape[0]
        scene_of += [index] * shared
        block_of += [0] * shared
        labels += [IGNORED] * shared
        weights += [0.0] * shared
        number += [-1] * shared
        for block, (question, answer) in enumerate(pairs, 1):
            _, after = prompt_ids(tokenizer, question, system)
            said = tokenizer(answer + "<|im_end|>", add_special_tokens=False).input_ids
            asked_and_said = text(embed_ids(table, after + said[:-1]), media.next_position)
            length = len(after) + len(said) - 1
            embeds.append(asked_and_said.embeds)
            positions.append(asked_and_said.positions)
            scene_of += [index] * length
            block_of += [block] * length
            labels += [IGNORED] * (len(after) - 1) + said
            weights += [0.0] * (len(after) - 1) + [len(said) ** -0.5] * len(said)
            number += [asked] * length
            asked += 1
    scenes_, blocks = torch.tensor(scene_of), torch.tensor(block_of)
    order = torch.arange(len(scenes_))
    same = (blocks == 0) | (blocks[:, None] == blocks)
    allowed = (order[:, None] >= order) & (scenes_[:, None] == scenes_) & same
    return Pack(
        torch.cat(embeds),
        torch.cat(positions, 1),
        allowed,
        torch.tensor(labels),
        torch.tensor(weights),
        torch.tensor(number),
    )


def attention_bias(allowed: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The mask as transformers' decoders take it ready-made: 0 where allowed, -inf where not, (1, 1, L, L)."""
    bias = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, float("-inf"))
    return {"full_attention": bias[None, None]}


def loss(hidden: Tensor, head: Tensor, row: Pack) -> tuple[Tensor, Tensor, Tensor]:
    """(L, D) states, (V, D) head -> weighted cross-entropy; per label, whether it was the likeliest; its question."""
    asked = row.labels != IGNORED
    logits = F.linear(hidden[asked], head).float()
    target = row.labels[asked]
    each = F.cross_entropy(logits, target, reduction="none")
    weight = row.weights[asked]
    return (each * weight).sum() / weight.sum(), logits.argmax(-1) == target, row.question[asked]
