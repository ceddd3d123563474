"""ep-smol, the built-in model: SmolLM2-135M reads what small frozen parts report about a clip.

    frames ─▶ Eye: NanoDet, EfficientNet-Lite0, RapidOCR ─▶ sights ─┐
                                                                   ├─ Adapter ─▶ 2-second chunks ─▶ SmolLM2 + LoRA
    sound ──▶ Ear: YAMNet, 120 ms a token; Whisper's words ────────┘

A token starts as what a report is called (`adapter.py`). The adapter, the LoRA and the sieve are what was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from epcli.models import chatml, layout
from epcli.models.attention import fit_to_card
from epcli.models.sieve_weights import small_sieve
from epcli.models.smol.adapter import Adapter, HeardNames, SightPieces, beginnings, load_adapter, sight_pieces
from epcli.models.smol.ear import Ear
from epcli.models.smol.family import AUDIO_STEP_S, CARD, CONTEXT_TOKENS
from epcli.models.smol.smollm import load_smollm
from epcli.observe.picture import Eye
from epcli.records import (
    POSITION_STEP_S,
    AudioFeatures,
    Clip,
    Features,
    SeenFeatures,
    TokenStream,
    Turn,
)
from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import install

SYSTEM = "You watch and listen to a clip and answer questions about it."
SECTIONS = (9, 9, 9, 5)  # Sync-RoPE [T, H, W, T] at 32 rotary frequencies: the paper's 18, 18, 18, 10 halved
LATEST = 20  # position steps, of 25 a second, that a frame's tokens spread over
LORA_TARGETS = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")


def merge_lora(decoder: nn.Module, lora: dict[str, Tensor], scale: float, dtype: torch.dtype) -> None:
    """W += scale * B A, in float32, for every adapted weight of the decoder, which has `dtype` afterwards."""
    with torch.no_grad():
        for key in lora:
            if key.endswith(".A"):
                weight = decoder.get_parameter(f"{key[:-2]}.weight")
                change = lora[key[:-1] + "B"].float() @ lora[key].float() * scale
                weight.data = weight.float().add(change).to(dtype)


class Language:
    """SmolLM2 with Sync-RoPE: the language model alone, without adapter and towers."""

    def __init__(self, dtype: torch.dtype) -> None:
        """On the CPU. Loads it, and fetches it if needed. Raises WeightsError."""
        self.decoder: Any
        self.decoder, self.head, self.tokenizer = load_smollm(dtype, torch.device("cpu"))
        self.device, self.dtype = torch.device("cpu"), dtype
        install(self.decoder, SECTIONS)
        self.stop_ids = frozenset(self.tokenizer(text).input_ids[0] for text in ("<|im_end|>", "<|endoftext|>"))

    def to(self, device: torch.device, dtype: torch.dtype) -> Language:
        """Moves it; returns itself."""
        self.decoder.to(device, dtype)
        fit_to_card(self.decoder, device)
        self.device, self.dtype = device, dtype
        return self


class EpSmol:
    """The built-in model, behind the protocol `AVModel`."""

    context_tokens = CONTEXT_TOKENS

    def __init__(self, language: Language, adapter: Adapter, sieve: Sieve | None, name: str = CARD.name) -> None:
        """`language`: with the adapter's LoRA, merged or beside it."""
        self.name, self.adapter, self.sieve = name, adapter, sieve
        self.decoder, self.head, self.tokenizer = language.decoder, language.head, language.tokenizer
        self.device, self.dtype, self.stop_ids = language.device, language.dtype, language.stop_ids
        self._eye: Eye | None = None
        self._ear: Ear | None = None

    @classmethod
    def open(cls, adapter: Path, name: str, device: torch.device, dtype: torch.dtype) -> EpSmol:
        """Load an adapter file and the parts, which are fetched if needed. Raises WeightsError."""
        language = Language(torch.float16)  # as it is stored: each weight is converted once, to what is computed in
        trained, lora, meta = load_adapter(adapter)
        # Before the LoRA: the refiner is stored as a change of the plain decoder's layers.
        sieve = small_sieve(load_file(adapter), meta.get("refiner"), language.decoder, adapter.name, dtype)
        merge_lora(language.decoder, lora, meta["lora_scale"], dtype)
        if sieve is not None:
            sieve.to(device).reads_refined = meta.get("reads_refined", True)
        return cls(language.to(device, dtype), trained, sieve, name)

    def encode_video(self, clip: Clip) -> SeenFeatures | None:
        if clip.frames is None:
            return None
        self._eye = self._eye or Eye()  # loaded when first needed: a cached clip needs none
        return self._eye.see(clip)

    def encode_audio(self, clip: Clip) -> AudioFeatures | None:
        self._ear = self._ear or Ear(self.tokenizer)
        return self._ear.listen(clip)

    def stream(
        self, features: Features, question: str, system: str | None, history: Sequence[Turn] = ()
    ) -> TokenStream:
        table = self.decoder.get_input_embeddings().weight
        with torch.inference_mode():
            return build_stream(self.adapter, table, self.tokenizer, features, question, system, self.dtype, history)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).float()


def embed_ids(table: Tensor, ids: Sequence[int]) -> Tensor:
    """(L, D) float32 rows of the decoder's embedding table."""
    return F.embedding(torch.tensor(list(ids), dtype=torch.int64, device=table.device), table).float()


def media_layout(adapter: Adapter, table: Tensor, tokenizer: Any, features: Features, start: int) -> layout.Segment:
    """The clip as interleaved tokens, marker tokens around them, positions from `start` on."""
    seen, audio = features.video, features.audio
    assert seen is None or isinstance(seen, SeenFeatures)
    pieces = None if seen is None else sight_pieces(seen, tokenizer)
    heard = None if audio is None else adapter.sounds.heard(audio.tokens.float(), audio.words)
    return lay_out(adapter, table, tokenizer, features.duration_s, seen, pieces, heard, start)


def lay_out(
    adapter: Adapter,
    table: Tensor,
    tokenizer: Any,
    duration_s: float,
    seen: SeenFeatures | None,
    pieces: SightPieces | None,
    heard: HeardNames | None,
    start: int,
    noise: float = 0.0,
) -> layout.Segment:
    """`media_layout` of reports. `noise`: on the logits of sounds, in training only."""
    video = audio = None
    if seen is not None and pieces is not None:
        embeds = adapter.embed_sights(pieces, seen.times_s, duration_s, table)
        video = layout.SightTokens(
            embeds, pieces.frame, seen.times_s, seen.step_s, pieces.boxes, pieces.labels, later(pieces.frame)
        )
    if heard is not None:
        embeds = adapter.embed_sounds(heard, beginnings(heard, tokenizer), duration_s, table, noise)
        labels = sound_labels(adapter, heard, tokenizer)
        audio = layout.AudioTokens(embeds, round(AUDIO_STEP_S / POSITION_STEP_S), labels=labels)
    return layout.interleave(video, audio, adapter.markers, start)


def later(frame: Tensor) -> Tensor:
    """(n,) ascending frames -> (n,) int64 position steps: the tokens of a frame stand one after another, as text."""
    first = torch.searchsorted(frame, frame)
    return (torch.arange(len(frame)) - first).clamp(max=LATEST)


def sound_labels(adapter: Adapter, heard: HeardNames, tokenizer: Any) -> tuple[str, ...]:
    """What each sound token is called, for people: the word in it, or the likeliest name if it is likely."""
    p, best = heard.names.sigmoid().max(-1)
    made = []
    for quiet, word, sure, name in zip(*(t.tolist() for t in (heard.quiet, heard.words, p, best)), strict=True):
        if word >= 0:
            made.append(f"'{tokenizer.decode([word])}'")
        else:
            made.append("silence" if quiet else adapter.heard[name] if sure >= 0.5 else "")
    return tuple(made)


def prompt_ids(
    tokenizer: Any, question: str, system: str | None, history: Sequence[Turn] = ()
) -> tuple[list[int], list[int]]:
    """Token ids before and after the media, which stand before the first question."""
    return chatml.prompt_ids(tokenizer, question, system or SYSTEM, history, after_clip="\n")


def build_stream(
    adapter: Adapter,
    table: Tensor,
    tokenizer: Any,
    features: Features,
    question: str,
    system: str | None,
    dtype: torch.dtype,
    history: Sequence[Turn] = (),
) -> TokenStream:
    """Text, media, question: one stream."""
    before, after = prompt_ids(tokenizer, question, system, history)
    media = media_layout(adapter, table, tokenizer, features, len(before))
    head = layout.text(embed_ids(table, before), 0)
    tail = layout.text(embed_ids(table, after), media.next_position)
    return layout.join([head, media, tail], dtype, table.device)
