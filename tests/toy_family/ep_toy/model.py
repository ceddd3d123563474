"""A random decoder behind towers that average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniThinkerTextModel
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig

from ep_toy import CELL, DECODER, SOUND_S
from epcli.models import chatml
from epcli.models.layout import AudioTokens, VideoTokens, interleave, join, text
from epcli.records import (
    POSITION_STEP_S,
    SAMPLE_RATE,
    AudioFeatures,
    Clip,
    Features,
    TokenStream,
    Turn,
    VideoFeatures,
)
from epcli.sieve.sync_rope import install

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def tokenizer() -> Any:
    """One token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=made)


class ToyModel:
    """Behind the protocol `AVModel`."""

    context_tokens = 4096
    sieve = None

    def __init__(self, name: str, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.name, self.device, self.dtype, self.tokenizer = name, device, dtype, tokenizer()
        self.stop_ids = frozenset(self.tokenizer.convert_tokens_to_ids(list(SPECIAL[1:])))
        torch.manual_seed(seed)
        config: Any = Qwen2_5OmniTextConfig(
            hidden_size=DECODER.width,
            num_hidden_layers=DECODER.layers,
            num_attention_heads=DECODER.heads,
            num_key_value_heads=DECODER.kv_heads,
            intermediate_size=DECODER.mlp,
            vocab_size=DECODER.vocabulary,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        )
        decoder: Any = Qwen2_5OmniThinkerTextModel._from_config(config, attn_implementation="sdpa")
        self.decoder: Any = decoder.to(device, dtype).eval().requires_grad_(False)
        install(self.decoder, (3, 2, 2, 1))
        self.colours, self.loudness = torch.randn(3, DECODER.width), torch.randn(1, DECODER.width)
        self.markers = torch.randn(4, DECODER.width)

    def encode_video(self, clip: Clip) -> VideoFeatures | None:
        if clip.frames is None or clip.frame_times_s is None:
            return None
        pixels = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255
        grid = torch.nn.functional.avg_pool2d(pixels, CELL).permute(0, 2, 3, 1).contiguous()
        times = torch.from_numpy(clip.frame_times_s).double()
        return VideoFeatures(grid, times, clip.duration_s / len(times))

    def encode_audio(self, clip: Clip) -> AudioFeatures | None:
        if clip.samples is None or not len(clip.samples):
            return None
        parts = torch.from_numpy(clip.samples).split(round(SOUND_S * SAMPLE_RATE))
        return AudioFeatures(torch.stack([part.square().mean()[None] for part in parts]), SOUND_S)

    @torch.inference_mode()
    def stream(
        self, features: Features, question: str, system: str | None, history: Sequence[Turn] = ()
    ) -> TokenStream:
        table = self.decoder.get_input_embeddings().weight
        before, after = (table[ids] for ids in chatml.prompt_ids(self.tokenizer, question, system or "Toy.", history))
        video = audio = None
        if features.video is not None:
            video = VideoTokens(features.video.grid @ self.colours, features.video.times_s, features.video.step_s)
        if features.audio is not None:
            audio = AudioTokens(features.audio.tokens @ self.loudness, round(SOUND_S / POSITION_STEP_S))
        media = interleave(video, audio, self.markers, len(before))
        return join([text(before, 0), media, text(after, media.next_position)], self.dtype, self.device)

    def logits(self, hidden: Tensor) -> Tensor:
        return (hidden @ self.decoder.get_input_embeddings().weight.T).float()
