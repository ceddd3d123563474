"""What `ep` knows of a kind of model: `Family` before the weights are loaded, `AVModel` after.

A family is one folder. It is found through the entry-point group `epcli.models` (catalog.py), and all that `ep` knows
of it is here. No model library is imported, neither here nor by a family before `load` or `learner`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from epcli.models.costs import Costs, Decoder, Look

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from epcli.config import Profile
    from epcli.records import AudioFeatures, Clip, Features, Sampling, SeenFeatures, TokenStream, Turn, VideoFeatures
    from epcli.sieve.sieve import Sieve
    from epcli.train.examples import Make
    from epcli.train.recipe import Order, TrainedParts
    from epcli.train.sieve_trainer import Learner

Progress = Callable[[float], None] | None  # told the share of the weights that is read, 0 to 1


@dataclass(frozen=True)
class Card:
    """What `ep models` shows of a model."""

    name: str
    summary: str
    licence: str
    download_bytes: int  # 0 for what is not downloaded
    parameters: int
    needs: str  # memory, in words


@dataclass(frozen=True)
class Source:
    """The weights that a `--model` value names."""

    family: Family
    card: Card
    path: Path | None = None  # of the user's own weights; None: those that the family fetches

    @property
    def name(self) -> str:
        """For reports."""
        return self.card.name


@dataclass(frozen=True)
class Shape:
    """Sizes of a model that `ep bench --shape` times at random weights, without a download."""

    decoder: Decoder
    tower_layers: int
    at_random: Callable[[int | None], Source]  # its towers, cut to so many layers; `load` makes them


class Family(Protocol):
    """A kind of model."""

    name: str
    accepts: str  # what `find` takes besides names, to end the sentence "or give …"; "" to leave it out

    def cards(self) -> Sequence[Card]:
        """The models that have a name, for `ep models list`."""
        ...

    def find(self, text: str) -> Source | None:
        """The weights if `text` is a name, a folder or a file of this family; else None. Downloads and loads nothing.

        Raises UsageError or WeightsError to say what `text` is instead; that is heard if no other family reads it.
        """
        ...

    def status(self, source: Source) -> str:
        """ "ready" if all files are here, else "partly downloaded" or "not downloaded". Opens none of them."""
        ...

    def location(self, source: Source) -> Path:
        """Where the weights of a name are, or will be."""
        ...

    def check_present(self, source: Source) -> None:
        """Raises WeightsError if `load` would: the weights must be pulled first, or are not whole. Reads no weights."""
        ...

    def pull(self, source: Source) -> None:
        """Fetch the weights of a name, and check what is there. Raises WeightsError."""
        ...

    def remove(self, source: Source) -> int:
        """Delete the weights of a name; returns the bytes freed."""
        ...

    def sampling(self, profile: Profile) -> Sampling:
        """How a file is decoded for this family under these settings."""
        ...

    def tower_key(self, source: Source, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """What makes a clip's features, as JSON types: the towers' weights and number format, for the feature cache.

        What stands behind the towers (an adapter, a sieve, LoRA, quantization) makes no difference. A family that is
        not part of epcli names the version of its code here too. Raises WeightsError.
        """
        ...

    def costs(self, source: Source, look: Look, number_bytes: int, quantize: str) -> Costs:
        """Tokens and bytes of a question about a file, for `ep plan`. Raises WeightsError.

        `number_bytes`: of a number in the format to compute in. `quantize`: as the setting has it.
        """
        ...

    def load(
        self, source: Source, device: torch.device, dtype: torch.dtype, quantize: str, on_progress: Progress = None
    ) -> AVModel:
        """The model on its device. Raises UsageError (settings), WeightsError or CapacityError.

        `on_progress`: called with the share of the weights that was read, 0 to 1, where that takes long.
        """
        ...

    def learner(
        self, source: Source, order: Order, parts: TrainedParts, profile: Profile
    ) -> tuple[Learner, Make] | None:
        """The model made ready for `ep train`, and what makes its examples; None if models of this family are not.

        Raises UsageError, WeightsError or CapacityError.
        """
        ...

    def shapes(self) -> Mapping[str, Shape]:
        """By name, for `ep bench --shape`; empty if none is worth timing."""
        ...


class AVModel(Protocol):
    """An audio-visual language model: towers, a stream builder and a decoder. Complete once it is constructed.

    The pipeline calls `encode_video`, `encode_audio` and `stream` in this order; then the sieve works on the stream
    through `decoder`, and generation runs `decoder` and `logits`.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    decoder: Any  # transformers text model: embed_tokens, layers, norm, rotary_emb
    sieve: Sieve | None  # trained for this decoder; None if there is none
    tokenizer: Any  # transformers fast tokenizer
    stop_ids: frozenset[int]  # token ids that end an answer
    context_tokens: int  # longest prompt plus answer the decoder was made for

    def encode_video(self, clip: Clip) -> VideoFeatures | SeenFeatures | None:
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
