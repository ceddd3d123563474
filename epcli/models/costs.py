"""What a model costs before it is loaded: parameters, bytes, tokens. Formulas in docs/memory.md; no torch here.

`e` below is the bytes of a number: 4 in float32, 2 in bfloat16 and float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from epcli.config import Profile
from epcli.records import REFINER_DEPTH, Sampling

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "float32": 4, "bfloat16": 2, "float16": 2}
NF4_BLOCK = 64  # weights that share one float32 scale
CELL = 28  # pixels a side of one video token: 2 x 2 patches of 14
FRAME_PIXELS = 128 * CELL**2  # 128 tokens for two frames
STILL_PIXELS = 1280 * CELL**2  # 1.0 megapixels for a still, or for the few frames of a short clip together
FPS, MAX_FRAMES = 2.0, 256
SHORTEST_MEL = 3  # mel frames that give one token; fewer give none


def sampling(profile: Profile) -> Sampling:
    """How Qwen2.5-Omni wants a file decoded: two frames a second, at most 256, of about 100,000 pixels.

    A still, and the frames of a clip of less than five seconds, may have more: 1.0 megapixels together.
    """
    return Sampling(
        fps=profile.fps or FPS,
        max_frames=profile.max_frames or MAX_FRAMES,
        max_pixels=profile.max_pixels or FRAME_PIXELS,
        few_pixels=0 if profile.max_pixels else STILL_PIXELS,
        multiple=CELL,
        video=profile.video,
        audio=profile.audio,
        audio_track=profile.audio_track,
        video_track=profile.video_track,
    )


def audio_tokens(mel_frames: int) -> int:
    """Tokens of a sound of so many mel frames of 10 ms: 25 a second."""
    return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1 if mel_frames >= SHORTEST_MEL else 0


@dataclass(frozen=True)
class Decoder:
    """The shape of a language model of the Llama kind (RMSNorm, grouped attention, gated MLP)."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int  # numbers a head
    mlp: int
    vocabulary: int
    biases: bool  # of the query, key and value projections (Qwen2)
    tied: bool  # the output head is the embedding table

    @property
    def linear_shapes(self) -> list[tuple[int, int]]:
        """(out, in) of one layer's linear weights: q, k, v, o, gate, up, down."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        return [
            (q, self.width),
            (kv, self.width),
            (kv, self.width),
            (self.width, q),
            (self.mlp, self.width),
            (self.mlp, self.width),
            (self.width, self.mlp),
        ]

    @property
    def layer_rest(self) -> int:
        """Parameters of one layer besides its linear weights: two norms and biases."""
        biases = (self.heads + 2 * self.kv_heads) * self.head if self.biases else 0
        return 2 * self.width + biases

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return sum(rows * columns for rows, columns in self.linear_shapes) + self.layer_rest

    @property
    def tables(self) -> int:
        """Parameters of embeddings, output head and last norm."""
        return (1 if self.tied else 2) * self.vocabulary * self.width + self.width

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.tables

    def layers_bytes(self, e: int, quantize: str = "none") -> int:
        """Bytes of all layers. int8: a byte a weight, a float32 a row; nf4: half a byte, a float32 for 64 weights."""
        if quantize == "none":
            return self.layers * self.layer * e
        total = 0
        for rows, columns in self.linear_shapes:
            n = rows * columns
            total += n + 4 * rows if quantize == "int8" else -(-n // 2) + 4 * -(-n // NF4_BLOCK)
        return self.layers * (total + self.layer_rest * e)

    def kv_bytes(self, tokens: int, e: int) -> int:
        """Keys and values of `tokens` in all layers."""
        return 2 * self.layers * self.kv_heads * self.head * tokens * e

    def activation_bytes(self, tokens: int, e: int) -> int:
        """The most that one layer holds at once in prefill, without its cache: in the MLP, the residual, the normed
        input, gate, up and their product; and the rotary tables."""
        return tokens * e * (2 * self.width + 3 * self.mlp + 2 * self.head)

    def sieve_parameters(self, depth: int = REFINER_DEPTH) -> int:
        """Refiner layers, and the score head: RMSNorm(D), Linear(D, D), Linear(D, 1) with biases."""
        return depth * self.layer + self.width + (self.width**2 + self.width) + (self.width + 1)


@dataclass(frozen=True)
class Omni:
    """The shape of a Qwen2.5-Omni thinker."""

    decoder: Decoder
    vision: Mapping[str, Any]
    audio: Mapping[str, Any]
    context_tokens: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Omni:
        """From the thinker's config.json, or a transformers config's `to_dict()`. KeyError if it lacks a size."""
        text = config["text_config"]
        heads = text["num_attention_heads"]
        decoder = Decoder(
            width=text["hidden_size"],
            layers=text["num_hidden_layers"],
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            head=text.get("head_dim") or text["hidden_size"] // heads,
            mlp=text["intermediate_size"],
            vocabulary=text["vocab_size"],
            biases=True,
            tied=False,
        )
        return cls(decoder, config["vision_config"], config["audio_config"], text.get("max_position_embeddings", 32768))

    @property
    def vision_parameters(self) -> int:
        c = self.vision
        d, mlp, out = c["hidden_size"], c["intermediate_size"], c["out_hidden_size"]
        patch = c.get("in_channels", 3) * c.get("temporal_patch_size", 2) * c.get("patch_size", 14) ** 2 * d
        block = 2 * d + 4 * (d * d + d) + 2 * (d * mlp + mlp) + mlp * d + d
        merged = d * c.get("spatial_merge_size", 2) ** 2
        return patch + c["depth"] * block + d + merged * merged + merged + merged * out + out

    @property
    def audio_parameters(self) -> int:
        c = self.audio
        d, mlp, out = c["d_model"], c["encoder_ffn_dim"], c["output_dim"]
        convolutions = 3 * c["num_mel_bins"] * d + d + 3 * d * d + d
        layer = 4 * d * d + 3 * d + 2 * d * mlp + mlp + d + 4 * d
        return convolutions + c["encoder_layers"] * layer + 2 * d + d * out + out + 2 * out

    @property
    def tower_parameters(self) -> int:
        return self.vision_parameters + self.audio_parameters

    @property
    def parameters(self) -> int:
        return self.decoder.parameters + self.tower_parameters

    def weights_bytes(self, e: int, quantize: str = "none") -> int:
        """All weights of the thinker; only the decoder's linear layers are quantized."""
        return self.decoder.layers_bytes(e, quantize) + (self.decoder.tables + self.tower_parameters) * e

    def vision_activation_bytes(self, patches: int, e: int) -> int:
        """Of one batch: the pixels in float32 and, in a block's MLP, residual, normed input, gate, up, product."""
        c = self.vision
        pixels = c.get("in_channels", 3) * c.get("temporal_patch_size", 2) * c.get("patch_size", 14) ** 2
        return patches * (4 * pixels + e * (2 * c["hidden_size"] + 3 * c["intermediate_size"]))

    def audio_activation_bytes(self, mel_frames: int, e: int) -> int:
        """Of one window: the mel spectrogram in float32, and the larger of the first convolution's input and output and
        a layer's MLP, at half the frames."""
        c = self.audio
        d = c["d_model"]
        convolution = mel_frames * e * 2 * d
        mlp = mel_frames // 2 * e * (2 * d + 2 * c["encoder_ffn_dim"])
        return 4 * mel_frames * c["num_mel_bins"] + max(convolution, mlp)


_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420}
_AUDIO = {"encoder_layers": 32, "d_model": 1280, "encoder_ffn_dim": 5120, "num_mel_bins": 128}
SHAPES = {  # of the published checkpoints, for planning before anything is downloaded
    "qwen2.5-omni-7b": Omni(
        Decoder(3584, 28, 28, 4, 128, 18944, 152064, biases=True, tied=False),
        _VISION | {"out_hidden_size": 3584},
        _AUDIO | {"output_dim": 3584},
        32768,
    ),
    "qwen2.5-omni-3b": Omni(
        Decoder(2048, 36, 16, 2, 128, 11008, 151936, biases=True, tied=False),
        _VISION | {"out_hidden_size": 2048},
        _AUDIO | {"output_dim": 2048},
        32768,
    ),
}

SMOL = Decoder(576, 30, 9, 3, 64, 1536, 49152, biases=False, tied=True)  # SmolLM2-135M
SMOL_CONTEXT = 8192
SMOL_TOWERS = 50_000_000  # parameters of its three towers and its adapter, about, in float32
SMOL_LOOKING, SMOL_LISTENING = 60_000_000, 120_000_000  # bytes, about: one frame, and half a minute of sound, at a time
