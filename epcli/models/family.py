"""The small protocol behind which every audio-visual language model family stands.

The pipeline calls these in this order: `sampling`, `encode_video`, `encode_audio`, `stream`; then the sieve works on
the stream through `decoder`, and generation runs `decoder` and `logits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from epcli.config import Profile
from epcli.records import AudioFeatures, Clip, Features, Sampling, TokenStream, Turn, VideoFeatures
from epcli.sieve.sieve import Sieve


class AVModel(Protocol):
    """An audio-visual language model: towers, a stream builder and a decoder."""

    name: str
    device: torch.device
    dtype: torch.dtype
    decoder: Any  # transformers text model: embed_tokens, layers, norm, rotary_emb
    sieve: Sieve | None  # trained for this decoder; None if there is none
    tokenizer: Any  # transformers fast tokenizer
    stop_ids: frozenset[int]  # token ids that end an answer
    context_tokens: int  # longest prompt plus answer the decoder was made for

    def sampling(self, profile: Profile) -> Sampling:
        """How a file is to be decoded for this model under these settings."""
        ...

    def encode_video(self, clip: Clip) -> VideoFeatures | None:
        """Run the vision tower; None if the clip has no frames."""
        ...

    def encode_audio(self, clip: Clip) -> AudioFeatures | None:
        """Run the audio towers; None if the clip has no sound."""
        ...

    def stream(
        self, features: Features, question: str, system: str | None, history: Sequence[Turn] = ()
    ) -> TokenStream:
        """Embed media and question as one prompt, in reading order; earlier turns stand between them, as text."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) final hidden states -> (…, V) float32."""
        ...
