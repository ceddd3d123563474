"""A folder of tiny random Qwen2.5-Omni weights in the published layout, with real tokenizer and preprocessor files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import (
    AddedToken,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
)

from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import install

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|vision_pad|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
]
MERGES: Any = [("u", "s"), ("e", "r")]
PREPROCESSOR = {  # as published, but for fewer mel bins
    "chunk_length": 300,
    "dither": 0.0,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 16,
    "hop_length": 160,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "Qwen2VLImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "max_pixels": 12845056,
    "merge_size": 2,
    "min_pixels": 3136,
    "n_fft": 400,
    "n_samples": 4800000,
    "nb_max_frames": 30000,
    "padding_side": "right",
    "padding_value": 0.0,
    "patch_size": 14,
    "processor_class": "Qwen2_5OmniProcessor",
    "return_attention_mask": True,
    "sampling_rate": 16000,
    "temporal_patch_size": 2,
}
TEXT = {
    "model_type": "qwen2_5_omni_text",
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 192,
    "max_position_embeddings": 32768,
    "rope_scaling": {"mrope_section": [8, 12, 12], "rope_type": "default", "type": "default"},
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
}
VISION = {
    "model_type": "qwen2_5_omni_vision_encoder",
    "depth": 2,
    "fullatt_block_indexes": [1],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 128,
}
AUDIO = {
    "model_type": "qwen2_5_omni_audio_encoder",
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 16,
    "output_dim": 128,
}


def tokenizer() -> Any:
    """Qwen2's tokenizer over single bytes, and two merges so that merging is seen to work."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate([*letters, "us", "er"])}
    names = ("image_token", "audio_token", "video_token", "vision_bos_token", "vision_eos_token")
    values = ("<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>")
    extra = dict(zip(names, values, strict=True)) | {
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    made: Any = Qwen2Tokenizer(vocab={"<|endoftext|>": len(vocab), **vocab}, merges=MERGES, extra_special_tokens=extra)
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return made


def config(words: Any) -> dict[str, Any]:
    """config.json as published: the thinker's part and the rest."""
    number = dict(zip(SPECIAL, words.convert_tokens_to_ids(SPECIAL), strict=True))
    thinker = {
        "model_type": "qwen2_5_omni_thinker",
        "text_config": TEXT | {"vocab_size": len(words) + 5, "pad_token_id": number["<|endoftext|>"]},
        "vision_config": VISION,
        "audio_config": AUDIO,
        "audio_token_index": number["<|AUDIO|>"],
        "audio_start_token_id": number["<|audio_bos|>"],
        "audio_end_token_id": number["<|audio_eos|>"],
        "vision_start_token_id": number["<|vision_bos|>"],
        "vision_end_token_id": number["<|vision_eos|>"],
        "vision_token_id": number["<|vision_pad|>"],
        "image_token_index": number["<|IMAGE|>"],
        "video_token_index": number["<|VIDEO|>"],
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
    }
    return {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "thinker_config": thinker}


def write(folder: Path, *, sharded: bool = False, sieve: bool = False, whole: bool = True, seed: int = 0) -> Path:
    """Write a checkpoint, float32.

    Args:
        folder: made if it is not there.
        sharded: three shards and an index, the last of talker and token2wav only.
        sieve: with a sieve as the EchoingPixels reference saves it, of two layers.
        whole: with the `thinker.` prefix, talker and token2wav; else the thinker alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = tokenizer()
    words.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    settings = config(words)
    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(
        Qwen2_5OmniThinkerConfig.from_dict({**settings["thinker_config"], "tie_word_embeddings": False})
    )
    with torch.no_grad():  # the library's start of 0.02 makes all logits nearly equal
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        for new, old in (
            ("model.audio_tower", "audio_tower"),
            ("model.visual", "visual"),
            ("model.language_model", "model"),
        ):
            if key.startswith(new):
                key = old + key.removeprefix(new)
                break
        state[("thinker." if whole else "") + key] = value.clone()
    if sieve:
        settings["thinker_config"]["text_config"] |= {"av_refiner_layers": 2, "compression_ratio": 0.2}
        install(model.model.language_model, (9, 9, 9, 5))
        trained = Sieve.for_decoder(model.model.language_model, depth=2)
        for key, value in trained.state_dict().items():
            name = key.replace("refiner.", "thinker.model.bidir_encoder.").replace(
                "scorer.", "thinker.model.compressor."
            )
            state[name] = value.clone()
    (folder / "config.json").write_text(json.dumps(settings if whole else settings["thinker_config"], indent=1))
    other = {"talker.codec_head.weight": torch.zeros(4, 4), "token2wav.dit.weight": torch.zeros(4, 4)} if whole else {}
    if not sharded:
        save_file(state | other, folder / "model.safetensors", {"format": "pt"})
        return folder
    keys = sorted(state)
    shards = [{key: state[key] for key in keys[::2]}, {key: state[key] for key in keys[1::2]}, other]
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def copy(source: Path, folder: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(source, folder))
