"""What the sieve's trainer learns from: prompts with their answers, and where in the clip the evidence lies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from epcli.models import layout
from epcli.models.chatml import END, plain_ids
from epcli.models.layout import Segment
from epcli.models.smol.model import embed_ids, prompt_ids
from epcli.questions.evidence import evidence_tokens
from epcli.questions.record import Evidence
from epcli.records import Features, TokenStream


@dataclass(frozen=True, eq=False)
class Example:
    """One question about one clip."""

    stream: TokenStream  # the prompt; its embeds may carry gradients, which several items of a clip may share
    answer: Tensor  # (A,) int64 token ids, the last one ends the answer
    # (L,) bool, media tokens that hold the evidence, or (E, L), those of each piece of it; None: not known
    relevant: Tensor | None = None
    type: str = "own"  # of the question, for the tables


class Source(Protocol):
    """Where items come from."""

    def draw(self, rng: random.Random) -> Sequence[Example]:
        """Some questions about one clip, drawn with `rng` alone (and torch's generator, for noise)."""
        ...


def smol_items(
    model: Any,
    media: Segment,
    questions: Sequence[tuple[str, str, str, Sequence[Evidence] | None]],
    system: str | None = None,
) -> list[Example]:
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
        said = [*plain_ids(model.tokenizer, answer.strip()), model.tokenizer.convert_tokens_to_ids(END)]
        marked = None if evidence is None else evidence_tokens(stream, evidence)
        items.append(Example(stream, torch.tensor(said, device=table.device), marked, kind))
    return items


def qwen_items(
    model: Any,
    features: Features,
    questions: Sequence[tuple[str, str, str, Sequence[Evidence] | None]],
    system: str | None = None,
) -> list[Example]:
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
        items.append(Example(stream, said, None if evidence is None else evidence_tokens(stream, evidence), kind))
    return items
