"""Qwen2.5-Omni: its thinker, from a plain checkpoint or from one trained with a sieve.

Only the thinker is loaded; talker and token2wav never are. A checkpoint trained with the EchoingPixels reference holds
the sieve beside the thinker, under `thinker.model.bidir_encoder.*` (refiner) and `thinker.model.compressor.*` (score
head), and loads here unchanged. Without those keys the model is the plain one, with its own three-axis rotation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration
from transformers.utils import logging as transformers_logging

from epcli.errors import WeightsError
from epcli.sieve.refiner import Refiner
from epcli.sieve.select import ScoreHead
from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import four_axes, install

SYNC_SECTIONS = (18, 18, 18, 10)  # the paper's best split of 64 frequencies (head size 128)
REFINER, SCORER = "thinker.model.bidir_encoder.", "thinker.model.compressor."  # keys of the reference's checkpoints


class QwenOmni:
    """The thinker and its sieve. Tensors are batched here: B rows, padded on the left, L tokens each."""

    def __init__(self, thinker: Any, sieve: Sieve | None) -> None:
        """`thinker`: a Qwen2_5OmniThinkerForConditionalGeneration with SyncRope installed."""
        self.thinker, self.sieve = thinker, sieve
        self.decoder = thinker.model.language_model

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        sections: Sequence[int] | None = None,
        sieve: bool = True,
    ) -> QwenOmni:
        """Load a checkpoint folder: `config.json` and safetensors files.

        Args:
            folder: of a whole Qwen2.5-Omni checkpoint or a thinker's, trained with the reference or plain.
            dtype, device: of all weights.
            sections: Sync-RoPE's [T, H, W, T]; the reference reads them from its environment, not from the checkpoint.
                None takes the config's `mrope_section` if it has four numbers, else the paper's split.
            sieve: False leaves the checkpoint's sieve out, which gives the plain model.

        Raises:
            WeightsError: files missing or unreadable, or weights that do not fit the config.
        """
        settings = _read_config(folder)
        config = Qwen2_5OmniThinkerConfig.from_dict({**settings, "tie_word_embeddings": False})
        load: Any = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained
        try:
            with _quiet():
                thinker, report = load(folder, config=config, dtype=dtype, output_loading_info=True)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise WeightsError(f"{folder}: cannot be loaded as Qwen2.5-Omni: {_first_line(error)}") from error
        if report["missing_keys"] or report["mismatched_keys"]:
            wrong = min(map(str, report["missing_keys"] or report["mismatched_keys"]))
            raise WeightsError(
                f"{folder}: the weights lack {wrong}, or it has another shape; fetch the checkpoint again"
            )
        thinker = thinker.to(device).eval()
        decoder = thinker.model.language_model
        weights = _read_sieve(folder) if sieve else {}
        if not weights:
            install(decoder, decoder.config.rope_parameters["mrope_section"])
            return cls(thinker, None)
        install(decoder, sections or _sections(decoder, folder))
        return cls(thinker, _build_sieve(weights, decoder, folder))

    def positions(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        video_second_per_grid: Tensor | None = None,
        mel_frames: Tensor | None = None,
        use_audio_in_video: bool = False,
    ) -> Tensor:
        """(4, B, L) int64 [T, H, W, T] of prompts (B, L); 1 at padding. T is in steps of 40 ms.

        `*_grid_thw` (N, 3) patch grids before merging, `video_second_per_grid` (N,) seconds a temporal step,
        `mel_frames` (N,) int64 mel frames of each sound, all in reading order over the batch.
        """
        three, _ = self.thinker.get_rope_index(
            input_ids,
            image_grid_thw,
            video_grid_thw,
            attention_mask,
            use_audio_in_video,
            mel_frames,
            video_second_per_grid,
        )
        return four_axes(three)

    def embed(
        self,
        input_ids: Tensor,
        *,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, L) ids -> (B, L, D): token embeddings, with the towers' outputs in the media tokens' places.

        Media inputs are those of transformers' Qwen2.5-Omni processor. Only a prompt is embedded so: a media token's id
        among the generated ids is an ordinary token.
        """
        model, config = self.thinker.model, self.thinker.config
        embeds = self.decoder.get_input_embeddings()(input_ids)
        media: dict[int, Tensor] = {}
        if input_features is not None:
            sound = model.get_audio_features(input_features, feature_attention_mask=feature_attention_mask)
            media[config.audio_token_id] = sound.last_hidden_state
        if pixel_values is not None:
            pictures = model.get_image_features(pixel_values, image_grid_thw).pooler_output
            media[config.image_token_id] = torch.cat(pictures)
        if pixel_values_videos is not None:
            pictures = model.get_video_features(pixel_values_videos, video_grid_thw).pooler_output
            media[config.video_token_id] = torch.cat(pictures)
        for token, features in media.items():
            places = (input_ids == token).unsqueeze(-1)
            embeds = embeds.masked_scatter(places, features.to(embeds.device, embeds.dtype))
        return embeds

    def is_av(self, input_ids: Tensor) -> Tensor:
        """(B, L) bool: sound, picture and video tokens."""
        config = self.thinker.config
        media = (config.audio_token_id, config.image_token_id, config.video_token_id)
        return torch.isin(input_ids, torch.tensor(media, device=input_ids.device))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) final hidden states -> (..., V) float32."""
        return self.thinker.lm_head(hidden).float()


def _read_config(folder: Path) -> dict[str, Any]:
    """The thinker's part of config.json, in the form that transformers 5 reads."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read: {_first_line(error)}") from error
    config = config.get("thinker_config", config)
    if not isinstance(config.get("text_config"), dict):
        raise WeightsError(f"{path}: not the config of a Qwen2.5-Omni model (it has no text_config)")
    return config


def _read_sieve(folder: Path) -> dict[str, Tensor]:
    """The checkpoint's sieve tensors as `Sieve` names them; empty if it has none."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    for prefix, name in ((REFINER, "refiner."), (SCORER, "scorer.")):
                        if key.startswith(prefix):
                            found[name + key.removeprefix(prefix)] = file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path}: cannot be read: {_first_line(error)}") from error
    return found


def _build_sieve(weights: dict[str, Tensor], decoder: Any, folder: Path) -> Sieve:
    depth = 1 + max((int(key.split(".")[2]) for key in weights if key.startswith("refiner.layers.")), default=-1)
    like, layer = decoder.norm.weight, type(decoder.layers[0])
    with torch.device("meta"):  # the weights are assigned below, not copied
        layers: list[nn.Module] = [layer(decoder.config, index) for index in range(depth)]
        scorer = ScoreHead(decoder.config.hidden_size)
    sieve = Sieve(Refiner(layers, decoder.config), scorer, decoder.rotary_emb)
    try:
        sieve.load_state_dict({key: value.to(like.device, like.dtype) for key, value in weights.items()}, assign=True)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()  # the first line only says that there are errors
        raise WeightsError(f"{folder}: the sieve's weights do not fit its config: {detail}") from error
    return sieve.requires_grad_().eval()


def _sections(decoder: Any, folder: Path) -> Sequence[int]:
    config = decoder.config
    said = config.rope_parameters.get("mrope_section", ())
    if len(said) == len(SYNC_SECTIONS):
        return said
    if config.hidden_size // config.num_attention_heads == 2 * sum(SYNC_SECTIONS):
        return SYNC_SECTIONS
    raise WeightsError(f"{folder}: config.json does not say Sync-RoPE's four sections; write them into mrope_section")


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports the sieve's keys as unexpected, and draws a bar: neither is for the user."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    """What went wrong, without the path, which the message has said."""
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return said.splitlines()[0]
