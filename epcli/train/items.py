"""What the sieve's trainer learns from: prompts with their answers, and where in the clip the evidence lies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from epcli.models import layout
from epcli.models.layout import Segment
from epcli.models.smol.model import embed_ids, prompt_ids
from epcli.records import Features, Modality, TokenStream


@dataclass(frozen=True, eq=False)
class Item:
    """One question about one clip."""

    stream: TokenStream  # the prompt; its embeds may carry gradients, which several items of a clip may share
    answer: Tensor  # (A,) int64 token ids, the last one ends the answer
    # (L,) bool, media tokens that hold the evidence, or (E, L), those of each piece of it; None: not known
    relevant: Tensor | None = None
    type: str = "own"  # of the question, for the tables


class Source(Protocol):
    """Where items come from."""

    def draw(self, rng: random.Random) -> Sequence[Item]:
        """Some questions about one clip, drawn with `rng` alone (and torch's generator, for noise)."""
        ...


@dataclass(frozen=True)
class Evidence:
    """Where an answer can be read off: one sense, one stretch of time, for pictures one part of the frame."""

    modality: Modality
    start_s: float
    end_s: float
    box: tuple[float, float, float, float] | None = None  # top, left, bottom, right as shares of the frame


def relevant_tokens(stream: TokenStream, evidence: Sequence[Evidence]) -> Tensor:
    """(L,) bool: the stream's media tokens that overlap a piece of evidence in time (and place). The ends are open."""
    start, end = stream.spans_s.unbind(-1)
    cells, (rows, cols) = stream.cells.float(), stream.grid
    modality = stream.modality.cpu()
    found = torch.zeros(len(modality), dtype=torch.bool)
    for piece in evidence:
        hit = (modality == piece.modality) & (start < piece.end_s) & (end > piece.start_s)
        if piece.box is not None and piece.modality == Modality.VIDEO:
            top, left, bottom, right = piece.box
            y, x = cells[:, 1], cells[:, 2]
            hit &= (y / rows < bottom) & ((y + 1) / rows > top) & (x / cols < right) & ((x + 1) / cols > left)
        found |= hit
    return found.to(stream.modality.device)


def smol_items(
    model: Any,
    media: Segment,
    questions: Sequence[tuple[str, str, str, Sequence[Evidence] | None]],
    system: str | None = None,
) -> list[Item]:
    """ep-smol's items of one clip.

    Args:
        model: an EpSmol.
        media: the clip's tokens (`media_layout`), positions from the length of the prompt's head on; with gradients
            where the adapter is trained.
        questions: type, question, answer and evidence (None: not known).
        system: None takes the model's own.
    """
    table = model.decoder.get_input_embeddings().weight
    items = []
    for kind, question, answer, evidence in questions:
        before, after = prompt_ids(model.tokenizer, question, system)
        head = layout.text(embed_ids(table, before), 0)
        tail = layout.text(embed_ids(table, after), media.next_position)
        parts = [head, media, tail]
        stream = layout.join(parts, model.dtype, table.device)
        said = model.tokenizer(answer.strip() + "<|im_end|>", add_special_tokens=False).input_ids
        marked = None if evidence is None else relevant_tokens(stream, evidence)
        items.append(Item(stream, torch.tensor(said, device=table.device), marked, kind))
    return items


def qwen_items(
    model: Any,
    features: Features,
    questions: Sequence[tuple[str, str, str, Sequence[Evidence] | None]],
    system: str | None = None,
) -> list[Item]:
    """Qwen2.5-Omni's items of one clip. Towers and embeddings are frozen, so nothing before the decoder learns."""
    items = []
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for kind, question, answer, evidence in questions:
        made = model.stream(features, question, system)
        # Copies: what was made in inference mode cannot take part in a backward pass.
        stream = replace(
            made,
            embeds=made.embeds.clone(),
            positions=made.positions.clone(),
            modality=made.modality.clone(),
            spans_s=made.spans_s.clone(),
            cells=made.cells.clone(),
        )
        said = torch.tensor([*model.inputs.encode(answer.strip()), end], device=stream.embeds.device)
        items.append(Item(stream, said, None if evidence is None else relevant_tokens(stream, evidence), kind))
    return items
