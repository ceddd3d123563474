"""Items for the sieve's trainer: simulated scenes with their questions, and the tokens that hold each answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from epcli.lab.questions import SceneEvidence
from epcli.lab.smol import StorySource
from epcli.lab.trainer import choose, drop_tokens
from epcli.models.smol.adapter import sight_pieces
from epcli.models.smol.learner import smol_items
from epcli.models.smol.model import lay_out, prompt_ids
from epcli.records import Modality, TokenStream
from epcli.train.examples import Example


def evidence_tokens(stream: TokenStream, evidence: Sequence[SceneEvidence]) -> Tensor:
    """(E, L) bool: for each piece of evidence that any token holds, the tokens that hold it."""
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
        if holds.any():
            found.append(holds)
    return torch.stack(found) if found else torch.zeros(0, len(start), dtype=torch.bool)


class Moments:
    """Draws a scene and some of its questions, which share the tokens of the clip."""

    def __init__(
        self,
        source: StorySource,
        model: Any,
        *,
        noise: float,
        questions: int = 3,
        long: float = 0.6,
        longest_s: float = 26.0,
        thinned: tuple[float, float] | None = None,
    ) -> None:
        """What is drawn, and how.

        Args:
            noise: a scene's sounds are made doubtful by up to this (standard deviation on the names' logits).
            long: share of long scenes.
            thinned: only a random share of a clip's sound tokens, drawn from this range, and no gradients to the
                adapter.
        """
        self.source, self.model = source, model
        self.noise, self.questions, self.long, self.longest_s = noise, questions, long, longest_s
        self.thinned = thinned
        self.head = len(prompt_ids(model.tokenizer, "", None)[0])

    def draw(self, rng: random.Random) -> list[Example]:
        story = self.source.story(rng, long=self.long, longest_s=self.longest_s)
        asked = {(q.type, q.question, q.answer): q for q in self.source.questions(story, rng)}
        chosen = choose(list(asked), self.questions, rng)
        model, table = self.model, self.model.decoder.get_input_embeddings().weight
        pieces = None if story.seen is None else sight_pieces(story.seen, model.tokenizer)
        heard = None if story.track is None else story.track.heard
        with torch.set_grad_enabled(self.thinned is None):
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
        if self.thinned is not None:
            share, generator = rng.uniform(*self.thinned), torch.Generator().manual_seed(rng.getrandbits(31))
            media = drop_tokens(media, share, None, generator)
        items = smol_items(model, media, [(*key, None) for key in chosen])
        return [
            Example(i.stream, i.answer, evidence_tokens(i.stream, asked[key].evidence), i.type)
            for i, key in zip(items, chosen, strict=True)
        ]
