"""What a decoder costs before it is loaded, whatever its family: parameters, bytes. Formulas in docs/memory.md.

`e` below is the bytes of a number: 4 in float32, 2 in bfloat16 and float16.
"""

from __future__ import annotations

from dataclasses import dataclass

from epcli.records import REFINER_DEPTH

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "float32": 4, "bfloat16": 2, "float16": 2}
NF4_BLOCK = 64  # weights that share one scale of a byte
HELD_BYTES = 128_000_000  # of a clip's embedded sound and picture that may stay on a GPU for the next question
NF4_SCALES = 256  # such scales that share one float32


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
        """Bytes of all layers.

        int8: a byte a weight, a float32 a row. nf4: half a byte a weight, a byte for 64 weights, a float32 for 256 of
        those, and one for their mean.
        """
        if quantize == "none":
            return self.layers * self.layer * e
        total = 0
        for rows, columns in self.linear_shapes:
            n = rows * columns
            blocks = -(-n // NF4_BLOCK)
            total += n + 4 * rows if quantize == "int8" else -(-n // 2) + blocks + 4 * -(-blocks // NF4_SCALES) + 4
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
class Look:
    """What would be seen and heard of a file."""

    frames: int  # sampled; 0 without picture
    width: int  # of a frame as it is decoded, pixels
    height: int
    heard_s: float  # seconds of sound; 0 without


@dataclass(frozen=True)
class Costs:
    """What a family needs for a question about a file, besides what every decoder needs."""

    decoder: Decoder
    context_tokens: int
    sieve_depth: int  # layers of the trained refiner; 0 without a trained sieve
    video_tokens: int
    audio_tokens: int
    language_model: int  # bytes of decoder, embeddings and output head
    towers: int  # bytes
    looking: int  # bytes that the vision tower holds at once
    listening: int  # bytes that the audio towers hold at once
    video_estimated: bool = False  # how many video tokens there are depends on what is seen: `video_tokens` is a guess
