"""Other words in the mouth of a voice, so that reading what is said is learned, not which 848 sentences there are.

Words reach the language model as pieces laid on the sound tokens (`Ear.listen`); laying other ones costs nothing.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

from torch import Tensor

from epcli.lab.scenes import Heard
from epcli.models.smol.family import AUDIO_STEP_S

SHARE = 0.6  # of the speech that is told in other words
SLOWEST, FASTEST = 1.2, 3.0  # words a second


class Retold:
    """Draws what a voice says instead, from the words that are one piece of the tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: SmolLM2's; its pieces that begin a word do so with "Ġ", and the common ones come first."""
        self.tokenizer = tokenizer
        whole = ((number, piece[1:]) for piece, number in tokenizer.get_vocab().items() if piece[0] == "Ġ")
        self.words = [w for _, w in sorted(whole) if len(w) > 1 and w.isascii() and w.isalpha() and w.islower()]

    def word(self, rng: random.Random) -> str:
        """Common words more often: the logarithm of the rank is even."""
        return self.words[int(math.exp(rng.uniform(0.0, math.log(len(self.words))))) - 1]

    def say(self, rng: random.Random, part: Heard) -> str:
        """Half the time the sentence with some words changed, else any words, as many as there is time for."""
        words = part.speech.split()
        if rng.random() < 0.5:
            return " ".join(self.word(rng) if rng.random() < 0.5 else word for word in words)
        seconds = part.end_s - part.start_s
        return " ".join(self.word(rng) for _ in range(max(1, round(seconds * rng.uniform(SLOWEST, FASTEST)))))

    def __call__(self, rng: random.Random, part: Heard, words: Tensor) -> Heard | None:
        """The part with other words, laid as `lay` does."""
        return self.lay(rng, replace(part, speech=self.say(rng, part)), words)

    def lay(self, rng: random.Random, part: Heard, words: Tensor) -> Heard | None:
        """The part with the text whose pieces are written into `words` (tokens of the track) in place.

        As Whisper writes: a capital first, a full stop at the end; what is said has neither. Words for which there is
        no room are left out; None if there is room for none.
        """
        first, last = int(part.start_s / AUDIO_STEP_S), min(int(part.end_s / AUDIO_STEP_S), len(words))
        spoken: list[str] = []
        pieces: list[list[int]] = []
        room = last - first
        for word in part.speech.split():
            written = word if spoken else word.capitalize()
            ids = self.tokenizer(f" {written}{',' * (rng.random() < 0.08)}", add_special_tokens=False).input_ids
            if len(ids) >= room:  # one stays free for the full stop
                break
            room -= len(ids)
            spoken.append(word)
            pieces.append(ids)
        if not spoken:
            return None
        stop = rng.choice((".", ".", ".", "?", "!"))
        pieces[-1] = pieces[-1] + self.tokenizer(stop, add_special_tokens=False).input_ids
        free, left = first, sum(map(len, pieces))
        for number, ids in enumerate(pieces):
            at = first + (last - first) * number // len(pieces)
            for piece in ids:
                free = max(free, min(at, last - left))
                words[free] = piece
                free, left = free + 1, left - 1
        return replace(part, speech=" ".join(spoken))
