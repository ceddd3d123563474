"""What Qwen2.5-Omni costs before it is loaded: parameters, bytes, tokens. Formulas in docs/memory.md; no torch here.

`e` below is the bytes of a number: 4 in float32, 2 in bfloat16 and float16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from epcli.config import Profile
from epcli.models.costs import Costs, Decoder, Look
from epcli.records import Sampling

PATCH = 14  # pixels a side
CELL = 2 * PATCH  # of one video token: 2 x 2 patches
FRAME_PIXELS = 128 * CELL**2  # 128 tokens for two frames
STILL_PIXELS = 1280 * CELL**2  # 1.0 megapixels for a still, or for the few frames of a short clip together
FPS, MAX_FRAMES = 2.0, 256
SHORTEST_MEL = 3  # mel frames that give one token; fewer give none
AUDIO_WINDOW_S = 300.0  # that the audio tower hears at once
BATCH_PATCHES = 8192  # that the vision tower sees at once; each grid is encoded by itself, so any split is exact


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


def of(shape: Omni, sieve_depth: int, look: Look, e: int, quantize: str) -> Costs:
    """Tokens and bytes of a question about a file."""
    decoder, grids = shape.decoder, math.ceil(look.frames / 2)
    patches = (look.width // PATCH) * (look.height // PATCH)
    batch = min(grids * patches, max(BATCH_PATCHES, 2 * patches))
    return Costs(
        decoder=decoder,
        context_tokens=shape.context_tokens,
        sieve_depth=sieve_depth,
        video_tokens=grids * (look.width // CELL) * (look.height // CELL),
        audio_tokens=audio_tokens(math.ceil(look.heard_s * 100)),
        language_model=decoder.layers_bytes(e, quantize) + decoder.tables * e,
        towers=shape.tower_parameters * e,
        looking=shape.vision_activation_bytes(batch, e),
        listening=shape.audio_activation_bytes(math.ceil(min(look.heard_s, AUDIO_WINDOW_S) * 100), e),
    )
