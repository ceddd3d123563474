"""SmolLM2-135M-Instruct, the language model of ep-smol, in the decoder class of Qwen2.5-Omni.

A Llama decoder is a Qwen2 decoder whose q, k and v biases are zero. So SmolLM2's weights run in transformers'
`Qwen2_5OmniThinkerTextModel`, with the same logits to the bit, and what is written for Qwen2.5-Omni (time, height and
width positions, Sync-RoPE, the sieve) works on it unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniRotaryEmbedding,
    Qwen2_5OmniThinkerTextModel,
)

from epcli.models.blank import blank
from epcli.observe.weights import SMOLLM_GGUF, prepared

CONTEXT = 8192  # tokens
HEADS, KV_HEADS, HEAD_DIM = 9, 3, 64

# llama.cpp's names of a layer's tensors, and ours
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class SmolLM(NamedTuple):
    """The decoder, its head and its tokenizer."""

    text_model: Qwen2_5OmniThinkerTextModel  # 30 layers, 576 wide; frozen, eval
    lm_head: nn.Linear  # (49152, 576), no bias; its weight is the embedding table's
    tokenizer: PreTrainedTokenizerFast  # with the chat template; <|im_end|> (id 2) ends a turn


def text_config() -> Qwen2_5OmniTextConfig:
    """SmolLM2-135M's sizes. A head has 32 frequencies: the 8 fastest turn with time, 12 with height, 12 with width."""
    return Qwen2_5OmniTextConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5, "mrope_section": [8, 12, 12]},
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )


def prepare(verify: bool = False) -> Path:
    """The folder with `model.safetensors` (float16, 269 MB) and the tokenizer, fetched and converted if need be."""
    return prepared("smollm2-135m-instruct.1", [SMOLLM_GGUF], _convert, verify=verify)


def load_smollm(dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> SmolLM:
    """Load the language model. Raises WeightsError if it is not cached and cannot be downloaded."""
    folder = prepare()
    config = text_config()
    with blank():
        model = Qwen2_5OmniThinkerTextModel._from_config(config, attn_implementation="sdpa")
        lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    state = {name: value.to(device, dtype) for name, value in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(state, assign=True)
    model.rotary_emb = _rotary(config).to(device)  # its frequencies are not in the file
    lm_head.weight = model.embed_tokens.weight
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return SmolLM(model.eval().requires_grad_(False), lm_head.requires_grad_(False), tokenizer)


def _rotary(config: Qwen2_5OmniTextConfig) -> Qwen2_5OmniRotaryEmbedding:
    return Qwen2_5OmniRotaryEmbedding(config)  # type: ignore[arg-type]  # annotated upstream for the whole model's config


def _convert(files: list[Path], folder: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    (gguf_file,) = files
    state: dict[str, Tensor] = {}
    for tensor in GGUFReader(gguf_file).tensors:
        # float16 holds the 4-bit values eight times as exactly as bfloat16 would, in the same space
        value = torch.tensor(dequantize(tensor.data, tensor.tensor_type), dtype=torch.float16)
        match tensor.name.split("."):
            case ["token_embd", "weight"]:
                state["embed_tokens.weight"] = value
            case ["output_norm", "weight"]:
                state["norm.weight"] = value
            case ["blk", layer, name, "weight"]:
                target = f"layers.{layer}.{_LAYER_NAMES[name]}"
                if name in ("attn_q", "attn_k"):
                    value = _halves_apart(value, HEADS if name == "attn_q" else KV_HEADS)
                if name in ("attn_q", "attn_k", "attn_v"):
                    state[f"{target}.bias"] = torch.zeros(len(value), dtype=value.dtype)
                state[f"{target}.weight"] = value.contiguous()
    save_file(state, folder / "model.safetensors")
    _tokenizer(gguf_file).save_pretrained(folder)


def _halves_apart(weight: Tensor, heads: int) -> Tensor:
    """(heads * 64, 576): rotary pairs side by side, as llama.cpp stores them -> half a head apart, as transformers."""
    pairs = weight.view(heads, HEAD_DIM // 2, 2, -1)
    return pairs.transpose(1, 2).reshape(weight.shape)


def _tokenizer(gguf_file: Path) -> PreTrainedTokenizerFast:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, model_max_length=CONTEXT
    )
    # The GGUF asks for the "smollm" splitting, digits one by one; transformers' reader leaves that out.
    split = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.backend_tokenizer.pre_tokenizer = split
    return tokenizer
