"""What the classifier of whole frames thinks of what the detector found.

The detector errs on animals in odd poses and on things that fill the picture: a flower is an orange to it, a fire
engine a bus. There the classifier, which knows twelve times as many names, is better. It hardly knows horses, cows,
sheep and giraffes, and where it sees people it names their clothes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from epcli.observe import names, scenes

AGREES = 0.3  # probability of what the detector reports, from which both agree
CERTAIN = 0.5  # and from which only the question is left which kind of it is seen
LARGE = 0.1  # share of the picture, from which a vehicle or food is what the whole frame is about
SURE = 0.5  # probability of another class, from which such a thing is doubted
LITTLE = 0.02  # if its own probability is below this
CONTRADICTS = 0.8  # probability of another animal, from which even a trusted one is doubted, unless
BEYOND_DOUBT = 0.65  # its score is at least this
ANIMAL, SURE_PERSON = 0.6, 0.55  # probability of an animal, from which a person must have a higher score
TRUSTED = frozenset(("person", "horse", "cow", "sheep", "giraffe"))  # the detector's word on these stands


class Opinion:
    """The classifier's probabilities, (1000,) of each frame that it looked at."""

    def __init__(self, probabilities: Mapping[int, np.ndarray]) -> None:
        self._probabilities = probabilities

    def mean(self, frames: Collection[int]) -> np.ndarray | None:
        """(1000,) probabilities, the mean over these frames; None if it looked at none of them."""
        seen = [self._probabilities[frame] for frame in frames if frame in self._probabilities]
        mean: np.ndarray | None = np.mean(seen, axis=0) if seen else None
        return mean

    def doubts(self, name: str, score: float, area: float, frames: Collection[int]) -> bool:
        """Whether it is something else that takes `area` of the picture in these frames, with `score` on the mean."""
        p = self.mean(frames)
        if p is None:
            return False
        if name == "person":  # an upright animal is one to the detector
            return score < SURE_PERSON and scenes.is_animal_share(p) >= ANIMAL
        if name in TRUSTED:
            return score < BEYOND_DOUBT and self._contradicts(p, name)
        if not scenes.says(p, name):
            return True
        about = (
            area >= LARGE
            and bool({"vehicle", "food"} & set(names.kinds(name)))
            and scenes.share(np.ones(len(p)), name) > 0
        )
        return about and scenes.share(p, name) < LITTLE and float(p.max()) >= SURE

    def _contradicts(self, p: np.ndarray, name: str) -> bool:
        """Whether it is sure of one class which is no kind of this animal, nor of what that is (cattle)."""
        kinds = {name, *names.kinds(name)} - {"animal"}
        other, share = scenes.fine_name(p)
        return share >= CONTRADICTS and not kinds & {other, *names.kinds(other)}

    def agrees(self, name: str, frames: Collection[int], least: float = AGREES) -> bool:
        """Whether it thinks that the whole picture shows such a thing."""
        p = self.mean(frames)
        return p is not None and name not in TRUSTED and scenes.share(p, name) >= least
