"""What a whole frame shows: EfficientNet-Lite0 as published, named no more finely than it is sure of.

The classifier chooses among 1000 classes, most of them narrow. Where no class is likely enough, the probabilities of
all classes below a coarser everyday name ("dog", "building") are added up; where none of these is either, the frame
has no name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from epcli.observe import names

FINE = 0.6  # probability from which the class itself is named
COARSE = 0.5  # summed probability from which a coarser name is used
FEW, FEW_COARSE = 3, 0.4  # a name of at most so many classes is used from this on
BROAD = (
    0.25  # and a name of many from as much more as this times its share of all classes: a blurred frame is a bit of all
)
ANIMAL = 0.3  # probability of an animal from which the classifier knows what an animal is not
SAID = 0.1  # probability below which it does not agree with a detector's animal

_SIDE = 224  # pixels: frames are squashed to a square. With 256 or 288 right names have half the probability
_BATCH = 4  # frames at once; more fall out of the processor's cache
# What detectors find, and ImageNet has enough classes of to object to. It hardly has horses, cows, sheep and giraffes.
_KNOWN_ANIMALS = frozenset({"bird", "cat", "dog", "bear", "elephant", "zebra"})
# Coarser names that a whole frame does not deserve: what people wear, what stands in rooms; and antelopes, since
# ImageNet has no deer.
_NOT_THE_SCENE = frozenset(
    {"clothing", "coat", "tie", "hat", "mask", "swimsuit", "bag", "person"}
    | {"screen", "curtain", "lamp", "keyboard", "roof", "antelope"}
)


@dataclass(frozen=True, eq=False)
class _Coarse:
    name: str
    classes: np.ndarray  # indices of the classes that are one or speak for one
    floor: float  # summed probability from which the name is used


class SceneNamer:
    """The classifier, loaded. Raises WeightsError if its weights are not cached and cannot be downloaded."""

    def __init__(self) -> None:
        from epcli.observe.efficientnet_lite import load_efficientnet_lite0

        self._model = load_efficientnet_lite0()

    def probabilities(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """(H, W, 3) uint8 RGB each, of any size -> (N, 1000) float32 probabilities of ImageNet's classes."""
        import cv2
        import torch

        found = [np.zeros((0, len(names.classes())), np.float32)]
        for start in range(0, len(frames), _BATCH):
            squares = np.stack(
                [
                    cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
                    for frame in frames[start : start + _BATCH]
                ]
            )
            with torch.inference_mode():
                logits = self._model.class_logits(torch.from_numpy(squares).permute(0, 3, 1, 2))
                found.append(logits.softmax(-1).numpy())
        return np.concatenate(found)


def name(p: np.ndarray) -> tuple[str, float] | None:
    """(1000,) probabilities, the mean over a stretch -> the name it is sure of, and its probability; None: unsure."""
    classes = names.classes()
    for group in _same_name():
        share = float(p[[i for i in group if classes[i].trusted]].sum())
        if share >= FINE:
            return classes[group[0]].name, share
    for coarse in _coarse():
        share = float(p[coarse.classes].sum())
        if share >= coarse.floor:
            return coarse.name, share
    return None


def fine_name(p: np.ndarray) -> tuple[str, float]:
    """(1000,) probabilities -> the most likely class in everyday words, and its probability, however small."""
    best = max(_same_name(), key=lambda group: float(p[group].sum()))
    return names.classes()[best[0]].name, float(p[best].sum())


def share(p: np.ndarray, name: str) -> float:
    """(1000,) probabilities -> that of everything which is a `name` ("dog", "golden retriever"); 0.0 if nothing is."""
    return float(p[_members(name)].sum())


def is_animal_share(p: np.ndarray) -> float:
    """(1000,) probabilities -> that of an animal of any kind."""
    return share(p, "animal")


def says(p: np.ndarray, coco_name: str) -> bool:
    """Whether the classifier lets a detector's name stand: False only where it sees another animal than that one."""
    if coco_name not in _KNOWN_ANIMALS or is_animal_share(p) < ANIMAL:
        return True
    return share(p, coco_name) >= SAID


@cache
def _same_name() -> tuple[list[int], ...]:
    """The classes of each everyday name: several breeds are one poodle."""
    groups: dict[str, list[int]] = {}
    for index, fine in enumerate(names.classes()):
        groups.setdefault(fine.name, []).append(index)
    return tuple(groups.values())


@cache
def _members(name: str) -> list[int]:
    return [i for i, fine in enumerate(names.classes()) if name == fine.name or name in fine.kinds]


@cache
def _coarse() -> tuple[_Coarse, ...]:
    """The coarser names, narrowest first. A kind of only one class would be that class under another name."""
    found = []
    for name in names.coarse_names():
        members = _members(name)
        if name in _NOT_THE_SCENE or len(members) < 2:
            continue
        speaking = [i for i, fine in enumerate(names.classes()) if name in fine.speaks_for]
        covered = members + speaking
        broad = BROAD * len(covered) / len(names.classes())
        floor = FEW_COARSE if len(covered) <= FEW else COARSE + broad
        found.append(_Coarse(name, np.array(covered), floor))
    return tuple(found)
