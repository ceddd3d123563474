"""Items for the sieve's trainer: simulated scenes with their questions, and the tokens that hold each answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from epcli.lab.questions import SceneEvidence
from epcli.lab.smol import StorySource
from epcli.lab.trainer import choose
from epcli.models.smol.adapter import HeardNames, beginnings, sight_pieces
from epcli.models.smol.learner import smol_items
from epcli.models.smol.model import lay_out, prompt_ids
from epcli.records import Modality, TokenStream
from epcli.train.examples import Example

SURE_TOKENS = 2  # of a sound, those that are named most surely, are its evidence
SAME_TIME_S = 0.1


def evidence_tokens(
    stream: TokenStream, evidence: Sequence[SceneEvidence], heard: HeardNames | None, begins: Tensor | None
) -> Tensor:
    """(E, L) bool: for each piece of evidence that any token holds, the fewest tokens that tell it.

    A thing is told by the first frame that shows it, speech by its words, another sound by the tokens that name it most
    surely and the digits of the second at which it begins. A small budget has no place for what says the same again.

    Args:
        heard: of the A sound tokens of the stream, in order; None without sound.
        begins: (A,) what `beginnings` gives of it.
    """
    start, end = stream.spans_s.unbind(-1)
    # A frame is seen at its time, where its span begins; a sound token lasts.
    at = torch.where(stream.modality == Modality.VIDEO, start, (start + end) / 2)
    labels = stream.labels or ("",) * len(start)
    found = []
    for piece in evidence:
        kind = Modality.VIDEO if piece.modality == "video" else Modality.AUDIO
        holds = (stream.modality == kind) & (at >= piece.start_s) & (at < piece.end_s)
        if piece.thing:
            holds &= torch.tensor([label == piece.thing for label in labels])
        if not holds.any():
            continue
        if kind == Modality.VIDEO:
            holds &= at <= at[holds].min() + SAME_TIME_S
        elif heard is not None and begins is not None:
            of = (torch.cumsum(stream.modality == Modality.AUDIO, 0) - 1)[holds]  # which sound tokens these are
            holds[holds.nonzero().squeeze(1)] = _telling(heard, begins, of)
            if not holds.any():
                continue
        found.append(holds)
    return torch.stack(found) if found else torch.zeros(0, len(start), dtype=torch.bool)


def _telling(heard: HeardNames, begins: Tensor, of: Tensor) -> Tensor:
    """(n,) numbers of sound tokens -> (n,) bool, those that tell what sounds in them."""
    words = heard.words[of] >= 0
    if words.any():
        return words
    sure = heard.names[of].amax(-1).masked_fill(heard.quiet[of] | (begins[of] >= 0), -torch.inf)
    best = torch.zeros_like(words)
    best[sure.topk(min(SURE_TOKENS, len(of))).indices] = True
    return best & sure.isfinite() | (begins[of] >= 0)


class Moments:
    """Draws a scene and some of its questions, which share the tokens of the clip."""

    def __init__(
        self,
        source: StorySource,
        model: Any,
        *,
        noise: float,
        questions: int = 3,
        gradients: bool = True,
    ) -> None:
        """What is drawn, and how.

        Args:
            noise: a scene's sounds are made doubtful by up to this (standard deviation on the names' logits).
            gradients: to the adapter.
        """
        self.source, self.model = source, model
        self.noise, self.questions, self.gradients = noise, questions, gradients
        self.head = len(prompt_ids(model.tokenizer, "", None)[0])

    def draw(self, rng: random.Random) -> list[Example]:
        story = self.source.story(rng)
        asked = {(q.type, q.question, q.answer): q for q in self.source.questions(story, rng)}
        chosen = choose(list(asked), self.questions, rng)
        model, table = self.model, self.model.decoder.get_input_embeddings().weight
        pieces = None if story.seen is None else sight_pieces(story.seen, model.tokenizer)
        heard = None if story.track is None else story.track.heard
        with torch.set_grad_enabled(self.gradients):
            media = lay_out(
                model.adapter,
                table,
                model.tokenizer,
                story.duration_s,
                story.seen,
                pieces,
                heard,
                self.head,
                rng.uniform(0.0, self.noise),
            )
        begins = None if heard is None else beginnings(heard, model.tokenizer)
        items = smol_items(model, media, [(*key, None) for key in chosen])
        return [
            Example(i.stream, i.answer, evidence_tokens(i.stream, asked[key].evidence, heard, begins), i.type)
            for i, key in zip(items, chosen, strict=True)
        ]
