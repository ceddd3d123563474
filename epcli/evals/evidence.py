"""How often the evidence points at what the answer is about: `python -m epcli.evals.evidence LIBRARY`.

Scenes are generated from held-out sources, so that when each sound plays and where each thing stands is known, and the
questions are those whose answer lies in one part of the clip. The evidence of an answer is right if the token at the
peak of its first moment lies in that part: in the right modality, at the right time and, where the question is about a
place, on the right thing. Chance is the share of the kept tokens that lie there: what a
token drawn blindly would reach.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from epcli.evals.scenes import SIZES
from epcli.records import MediaTokens, Modality
from epcli.train.questions import Question, ask
from epcli.train.scenes import Library, Script, render, write_script

SCHEMA = 1
COVERED = 0.3  # share of a cell that a thing's box must cover for the cell to count as on it
Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the scene


@dataclass(frozen=True)
class Truth:
    """The part of a scene that holds an answer."""

    modality: Modality
    start_s: float
    end_s: float
    box: Box | None = None  # None: anywhere in the picture

    def holds(self, tokens: MediaTokens) -> np.ndarray:
        """(n,) bool: which tokens lie in it; `tokens` of the scene written as a film."""
        middle = tokens.spans_s.mean(1)
        inside = (tokens.modality == self.modality) & (middle >= self.start_s) & (middle < self.end_s)
        if self.box is not None:
            x, y, width, height = self.box
            left, top, right, bottom = tokens.boxes.T
            across = np.minimum(right, x + width) - np.maximum(left, x)
            down = np.minimum(bottom, y + height) - np.maximum(top, y)
            area = np.maximum((right - left) * (bottom - top), 1)
            inside &= across.clip(0) * down.clip(0) >= COVERED * area
        return inside


def truth_of(script: Script, question: Question, boxes: list[list[Box]]) -> Truth | None:
    """Where a question's answer lies; None for a question that is not about one part, or about the whole clip."""
    parts = [part for part in script.sounds if part.things or part.speech]
    views, kind = script.views, question.type

    def sound(part: Any) -> Truth | None:
        names = {thing.name for thing in part.things}
        again = any(other is not part and names & {t.name for t in other.things} for other in script.sounds)
        return None if again else Truth(Modality.AUDIO, part.start_s, part.end_s)

    second = re.search(r"(?:second |at |0:)(\d+)|(\d+) seconds", question.question)
    at = int(second[1] or second[2]) if second else -1
    if kind in ("first", "last") and len(parts) > 1:
        return sound(parts[0] if kind == "first" else parts[-1])
    if kind == "hear at":
        return next((sound(part) for part in parts if part.start_s <= at < part.end_s), None)
    if kind == "speech":
        return next((Truth(Modality.AUDIO, p.start_s, p.end_s) for p in parts if p.speech), None)
    if kind in ("see first", "see last", "see at") and len(views) > 1:
        view = views[0] if kind == "see first" else views[-1] if kind == "see last" else script.view_at(at)
        return Truth(Modality.VIDEO, view.start_s, view.end_s) if view is not None else None
    if kind in ("where", "place") and len(views) == 1:
        for thing, box in zip(views[0].objects, boxes[0], strict=True):
            said = question.question.lower() if kind == "where" else question.answer.lower()
            if re.search(rf"\b{re.escape(thing.thing.name.lower())}\b", said):
                return Truth(Modality.VIDEO, 0.0, script.duration_s, box)
    return None


def cases(
    lib: Library, count: int, seed: int, shortest_s: float, longest_s: float
) -> Iterator[tuple[Script, list[tuple[Question, Truth]]]]:
    """Scenes with the questions whose answer's place is known, until there are `count` questions."""
    rng, made = random.Random(f"evidence{seed}"), 0
    while made < count:
        script = replace(write_script(lib, rng, shortest_s, longest_s), size=rng.choice(SIZES))
        if not (script.views or script.sounds):
            continue
        boxes = render(script)[1]
        known = [(question, truth_of(script, question, boxes)) for question in ask(script, lib, rng)]
        found = [(question, truth) for question, truth in known if truth is not None][: count - made]
        if found:
            made += len(found)
            yield script, found
