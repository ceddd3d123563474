"""What ep-smol hears: YAMNet's features and the loudness of each token, and the word pieces that are spoken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from epcli.models.smol.family import AUDIO_STEP_S
from epcli.observe import yamnet
from epcli.observe.loudness import normalise_loudness
from epcli.observe.whisper import Window, load_whisper
from epcli.observe.yamnet import load_yamnet
from epcli.records import SAMPLE_RATE, AudioFeatures, Clip

YAMNET_WIDTH = yamnet.WIDTH + yamnet.EARLY_WIDTH
AUDIO_WIDTH = YAMNET_WIDTH + 1  # YAMNet's last and earlier layers, and the level: what a sound token is made of
SPEECH = 0.15  # YAMNet's probability of speech from which on words are looked for
SHORTEST = 400  # samples that can be listened to


class Ear:
    """YAMNet and Whisper, frozen, on the CPU, each loaded when first needed."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: of the language model, whose word pieces the spoken words become."""
        self.tokenizer = tokenizer
        self.yamnet = load_yamnet()
        self.speech_class = self.yamnet.class_names.index("Speech")
        self._whisper: Any = None

    @property
    def whisper(self) -> Any:
        """Loaded when first needed: many clips have no speech."""
        if self._whisper is None:
            self._whisper = load_whisper()
        return self._whisper

    @torch.inference_mode()
    def listen(self, clip: Clip) -> AudioFeatures | None:
        """(S,) samples -> (A, AUDIO_WIDTH) tokens, one each 120 ms, and the word pieces spoken in them."""
        if clip.samples is None or len(clip.samples) < SHORTEST:
            return None
        samples = torch.from_numpy(normalise_loudness(clip.samples))
        tokens, speech = self._tokens(samples, torch.from_numpy(np.ascontiguousarray(clip.samples)))
        pieces = torch.full((len(tokens),), -1, dtype=torch.int64)
        if speech > SPEECH and not clip.silent:
            self._align_words(self.whisper.listen(samples), pieces)
        return AudioFeatures(tokens.half(), AUDIO_STEP_S, pieces)

    @torch.inference_mode()
    def sounds(self, samples: np.ndarray) -> Tensor:
        """(S,) float32 -> (A, AUDIO_WIDTH) float32, without words."""
        return self._tokens(torch.from_numpy(normalise_loudness(samples)), torch.from_numpy(samples))[0]

    def _tokens(self, samples: Tensor, plain: Tensor) -> tuple[Tensor, float]:
        """(S,) samples at the level the towers expect and as they are -> tokens; YAMNet's largest p(speech)."""
        count = max(1, int(np.ceil(len(samples) / (AUDIO_STEP_S * SAMPLE_RATE) - 1e-6)))
        embeddings, scores = self.yamnet(samples[None])
        sound = _resample(embeddings[0], self.yamnet.hop_s, 0.48, count)
        return torch.cat([sound, level(plain, count)[:, None]], -1), float(
            scores[0].sigmoid()[:, self.speech_class].max()
        )

    def _align_words(self, windows: Sequence[Window], pieces: Tensor) -> None:
        """Write the word pieces that are spoken into the tokens in which they are spoken, later if one is taken."""
        free = 0
        for word, start_s, end_s, _ in self.whisper.words(windows):
            ids = self.tokenizer(" " + word.strip(), add_special_tokens=False).input_ids
            for i, piece in enumerate(ids):
                at = int((start_s + (end_s - start_s) * i / len(ids)) / AUDIO_STEP_S)
                slot = max(free, at)
                if slot >= len(pieces):
                    return
                pieces[slot] = piece
                free = slot + 1


def level(samples: Tensor, count: int) -> Tensor:
    """(S,) -> (count,) root mean square of each token in units of 100 dB above -100 dBFS: 0 is silent, 1 full scale."""
    hop = round(AUDIO_STEP_S * SAMPLE_RATE)
    power = F.pad(samples, (0, count * hop - len(samples))).view(count, hop).square().mean(1)
    return (power.sqrt() + 1e-5).log10() / 5 + 1


def _resample(patches: Tensor, hop_s: float, centre_s: float, count: int) -> Tensor:
    """(P, F) patches centred at centre_s + p * hop_s -> (count, F), linear between neighbours."""
    at = (((torch.arange(count) + 0.5) * AUDIO_STEP_S - centre_s) / hop_s).clamp(0, len(patches) - 1)
    low = at.floor().long()
    high = (low + 1).clamp(max=len(patches) - 1)
    share = (at - low)[:, None]
    return patches[low] * (1 - share) + patches[high] * share
