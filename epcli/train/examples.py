"""What the sieve's trainer learns from: prompts with their answers, and where in the clip the evidence lies."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from epcli.questions.record import Evidence, Question
from epcli.records import Features, TokenStream


@dataclass(frozen=True, eq=False)
class Example:
    """One question about one clip."""

    stream: TokenStream  # the prompt; its embeds may carry gradients, which several items of a clip may share
    answer: Tensor  # (A,) int64 token ids, the last one ends the answer
    # (L,) bool, media tokens that hold the evidence, or (E, L), those of each piece of it; None: not known
    relevant: Tensor | None = None
    type: str = "own"  # of the question, for the tables


class ExampleSource(Protocol):
    """Where items come from."""

    def draw(self, rng: random.Random) -> Sequence[Example]:
        """Some questions about one clip, drawn with `rng` alone (and torch's generator, for noise)."""
        ...


Make = Callable[[Features, Sequence[Question]], list[Example]]  # a clip's features and questions -> examples


def rows(questions: Sequence[Question]) -> list[tuple[str, str, str, Sequence[Evidence] | None]]:
    """Type, question, answer and evidence (None: not known) of each."""
    return [(each.type, each.text, each.answer, each.evidence) for each in questions]
