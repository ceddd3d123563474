"""Naming or reading: what a wrong answer is owed to.

Scenes of held-out sources are asked about twice: as the towers' features are named by the heads, and with the true
names in the heads' place. What is still wrong then, the language model has misread; all tokens are kept, the sieve
takes no part.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from epcli.lab.pools import NOTHING, Scene, SceneMaker
from epcli.lab.questions import ask
from epcli.lab.trainer import one_hot
from epcli.models.smol.model import EpSmol, Projector, relative_weights
from epcli.session import generate
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select

# Types of questions whose answer is a name, or hangs on one.
NAMING = frozenset({
    "hear", "hear all", "order", "first", "last", "after", "before", "count", "hear at", "hear while",
    "see", "see first", "see last", "see at", "see while", "see briefly", "place", "where", "visible",
})  # fmt: skip
ASKED = 4  # questions about a scene


@dataclass
class Counts:
    """Answers about held-out scenes, right with the heads' names and with the true ones."""

    asked: int = 0
    named: int = 0
    right_by_names: int = 0

    def __str__(self) -> str:
        return f"{self.asked:5}  heads {self.named / self.asked:.2f}  true names {self.right_by_names / self.asked:.2f}"


@contextmanager
def true_names(model: EpSmol, scene: Scene) -> Iterator[None]:
    """Meanwhile the model's heads say what the scene's tokens truly show and sound; edges of things stay."""
    picture, sound = model.adapter.video, model.adapter.audio

    def seen(features: Tensor, noise: float = 0.0) -> Tensor:
        p, labels = Projector.probabilities(picture, features, noise), scene.video_labels
        assert labels is not None
        sure = (labels >= NOTHING)[..., None]
        return torch.where(sure, one_hot(labels, p.shape[-1]), p)

    def heard(features: Tensor, noise: float = 0.0) -> Tensor:
        assert scene.audio_labels is not None
        return relative_weights(scene.audio_labels)

    for projector, names in ((picture, seen), (sound, heard)):
        projector.probabilities = names  # type: ignore[method-assign]
    try:
        yield
    finally:
        for projector in (picture, sound):
            del projector.probabilities


@torch.inference_mode()
def measure(model: EpSmol, maker: SceneMaker, scenes: int, long: float, seed: int = 1) -> dict[str, Counts]:
    """Counts by type of question, and of "all", over so many scenes, a share of them `long` (up to 24 s)."""
    rng, counts = random.Random(seed), defaultdict[str, Counts](Counts)
    for _ in range(scenes):
        scene = maker.draw(rng, 24.0 if rng.random() < long else 0.0, 12)
        # "a voice" is no name
        questions = [q for q in ask(scene.script, maker.lib, rng) if q.type in NAMING and "voice" not in q.accept]
        for question in rng.sample(questions, min(ASKED, len(questions))):
            right = question.judge(_answer(model, scene, question.question))
            with true_names(model, scene):
                right_by_names = question.judge(_answer(model, scene, question.question))
            for kind in (question.type, "all"):
                counts[kind].asked += 1
                counts[kind].named += right
                counts[kind].right_by_names += right_by_names
    return dict(counts)


def _answer(model: EpSmol, scene: Scene, question: str) -> str:
    stream = model.stream(scene.features, question, None, ())
    kept = select("none", stream, Budget(ratio=1.0), Tools(decoder=model.decoder))
    return generate.run(model, kept, max_new_tokens=48)[0].text
