"""Items for the sieve's trainer: scenes from pools with their questions, and the tokens that hold each answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from epcli.lab.pools import NOTHING, Scene, SceneMaker
from epcli.lab.questions import SceneEvidence, ask
from epcli.lab.scenes import Library
from epcli.lab.trainer import choose, drop_tokens
from epcli.models.smol.learner import smol_items
from epcli.models.smol.model import media_layout, prompt_ids
from epcli.records import Modality, TokenStream
from epcli.train.examples import Example


def evidence_tokens(
    stream: TokenStream, evidence: Sequence[SceneEvidence], scene: Scene, number: dict[str, int]
) -> Tensor:
    """(E, L) bool: for each piece of evidence that any token holds, the tokens that hold it."""
    start, end = stream.spans_s.unbind(-1)
    shown = None
    if scene.video_labels is not None:
        frame, row, col = stream.cells.long().unbind(-1)
        n, rows, cols = scene.video_labels.shape
        cells = scene.video_labels.view(n, rows // 2, 2, cols // 2, 2).permute(0, 1, 3, 2, 4).flatten(3)
        shown = cells[frame.clamp(min=0), row.clamp(min=0), col.clamp(min=0)]  # (L, 4) names of the token's cells
    found = []
    for piece in evidence:
        # by the middle of a token's time: at a cut it belongs to what it shows
        middle = (start + end) / 2
        kind = Modality.VIDEO if piece.modality == "video" else Modality.AUDIO
        holds = (stream.modality == kind) & (middle >= piece.start_s) & (middle < piece.end_s)
        if shown is not None and kind == Modality.VIDEO:
            holds &= (shown == number[piece.thing]).any(-1) if piece.thing else (shown == NOTHING).all(-1)
        if holds.any():
            found.append(holds)
    return torch.stack(found) if found else torch.zeros(0, len(start), dtype=torch.bool)


class Moments:
    """Draws a scene, most often a long one, and some of its questions, which share the tokens of the clip."""

    def __init__(
        self,
        lib: Library,
        maker: SceneMaker,
        model: Any,
        *,
        noise: float,
        questions: int = 3,
        long: float = 0.6,
        several: float = 0.0,
        longest_s: float = 26.0,
        most_frames: int = 16,
        thinned: tuple[float, float] | None = None,
    ) -> None:
        """What is drawn, and how.

        Args:
            noise: a scene's names are made doubtful by up to this (standard deviation on the heads' logits).
            long: share of long scenes.
            several: share of shorter ones with several events and few pictures.
            thinned: only a random share of a clip's tokens, drawn from this range, and no gradients to the adapter.
        """
        self.lib, self.maker, self.model = lib, maker, model
        self.noise, self.questions = noise, questions
        self.long, self.several, self.longest_s, self.most_frames = long, several, longest_s, most_frames
        self.thinned = thinned
        self.number = {name: i for i, name in enumerate(lib.seen_names)}
        self.head = len(prompt_ids(model.tokenizer, "", None)[0])

    @torch.autocast("cpu", enabled=False)  # features are float16, the adapter computes in float32
    def draw(self, rng: random.Random) -> list[Example]:
        kind = rng.random()
        if kind < self.several:
            scene = self.maker.several(rng)
        else:
            scene = self.maker.draw(rng, self.longest_s if kind > 1 - self.long else 0.0, self.most_frames)
        asked = {(q.type, q.question, q.answer): q for q in ask(scene.script, self.lib, rng)}
        chosen = choose(list(asked), self.questions, rng)
        table = self.model.decoder.get_input_embeddings().weight
        noise = rng.uniform(0.0, self.noise)
        with torch.set_grad_enabled(self.thinned is None):
            media = media_layout(self.model.adapter, table, scene.features, self.head, noise)
        if self.thinned is not None:
            share, generator = rng.uniform(*self.thinned), torch.Generator().manual_seed(rng.getrandbits(31))
            media = drop_tokens(media, share, None, generator)
        items = smol_items(self.model, media, [(*key, None) for key in chosen])
        return [
            Example(i.stream, i.answer, evidence_tokens(i.stream, asked[key].evidence, scene, self.number), i.type)
            for i, key in zip(items, chosen, strict=True)
        ]
