"""Qwen2.5-Omni: its thinker, from a plain checkpoint or from one trained with a sieve.

Only the thinker is loaded; talker and token2wav never are, and their files need not be there. A checkpoint trained with
the EchoingPixels reference holds the sieve beside the thinker, under `thinker.model.bidir_encoder.*` (refiner) and
`thinker.model.compressor.*` (score head), and loads here unchanged. Our own sieve files (sieve_file.py) load on top of
a base. Without a sieve the model is the plain one, with its own three-axis rotation.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration
from transformers.utils import logging as transformers_logging

from epcli.errors import CapacityError, WeightsError
from epcli.models.attention import fit_to_card
from epcli.models.costs import HELD_BYTES
from epcli.models.family import Progress
from epcli.models.layout import CHUNK_STEPS, AudioTokens, Segment, VideoTokens, interleave, join, text
from epcli.models.qwen_omni import attention as tower_attention
from epcli.models.qwen_omni import quantize, reading, towers
from epcli.models.qwen_omni.costs import BATCH_PATCHES
from epcli.models.qwen_omni.folder import SIEVE, look, weight_files
from epcli.models.qwen_omni.hub import UNUSED
from epcli.models.qwen_omni.inputs import Inputs, sent
from epcli.models.qwen_omni.reading import tracked
from epcli.models.qwen_omni.sieve_file import SieveFile
from epcli.models.sieve_weights import build_sieve
from epcli.records import (
    POSITION_STEP_S,
    AudioFeatures,
    Clip,
    Features,
    SeenFeatures,
    TokenStream,
    Turn,
    VideoFeatures,
)
from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import PAPER_SECTIONS, four_axes, install

REFINER, SCORER = SIEVE


class Thinker:
    """The weights of a thinker and its sieve: what computes, without tokenizer and preprocessors.

    `positions`, `embed` and `is_av` take batches in the form of transformers' processor: B rows, padded on the left, L
    tokens each.
    """

    def __init__(self, thinker: Any, sieve: Sieve | None) -> None:
        """`thinker`: a Qwen2_5OmniThinkerForConditionalGeneration with SyncRope installed."""
        towers.simplify(thinker.model)
        self.thinker, self.sieve = thinker, sieve
        self.decoder = thinker.model.language_model
        self.dtype: torch.dtype = self.decoder.norm.weight.dtype
        self.device: torch.device = quantize.main_device(thinker)
        fit_to_card(self.decoder, self.device)
        self.context_tokens: int = thinker.config.text_config.max_position_embeddings

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        sections: Sequence[int] | None = None,
        sieve: bool = True,
        quantization: str = "none",
        sieve_file: SieveFile | None = None,
        on_progress: Progress = None,
    ) -> Thinker:
        """The weights of a checkpoint folder: `config.json` and safetensors files, which may hold other tensors too.

        Args:
            folder: of a whole Qwen2.5-Omni checkpoint or a thinker's, trained with the reference or plain.
            dtype, device: of all weights. Where they do not fit a GPU, the rest stays in host memory.
            sections: Sync-RoPE's [T, H, W, T]; the reference reads them from its environment, not from the checkpoint.
                None takes the config's `mrope_section` if it has four numbers, else the paper's split.
            sieve: False leaves the checkpoint's sieve out, which gives the plain model.
            quantization: "none", "nf4" or "int8", of the decoder's linear layers.
            sieve_file: trained on top of this folder's model; takes the place of the checkpoint's sieve.
            on_progress: called with the share of the weights that was read, 0 to 1.

        Raises:
            WeightsError: files missing or unreadable, or weights that do not fit the config.
            CapacityError: the weights fit neither device nor host.
        """
        looked = look(folder, words=False)
        config = Qwen2_5OmniThinkerConfig.from_dict({**looked.config, "tie_word_embeddings": False})
        placed = quantize.placement(config, torch.device(device), dtype, quantization)
        if sieve_file is not None:
            sieve_file.check_base(folder)
        state = tracked(
            thinker_tensors(folder, mapped=quantization == "none"), on_progress, trims=quantization != "none"
        )
        weights: dict[str, Tensor] = {}
        if sieve_file is not None:
            weights = sieve_file.whole_sieve(state)  # before the change: the refiner sits on the plain layers
            sieve_file.change(state)
        elif sieve:
            weights = _read_sieve(folder)
        load: Any = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained
        try:
            with _quiet():
                thinker, report = load(
                    None,
                    config=config,
                    state_dict=state,
                    dtype=dtype,
                    attn_implementation="sdpa",
                    output_loading_info=True,
                    **placed,
                )
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise CapacityError(
                f"{folder}: the weights do not fit in memory; try --quantize nf4, or a smaller model"
            ) from error
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise WeightsError(f"{folder}: cannot be loaded as Qwen2.5-Omni: {_first_line(error)}") from error
        if report["missing_keys"] or report["mismatched_keys"]:
            wrong = min(map(str, report["missing_keys"] or report["mismatched_keys"]))
            raise WeightsError(
                f"{folder}: the weights lack {wrong}, or it has another shape; fetch the checkpoint again"
            )
        thinker.eval()
        if quantization != "none":
            reading.trim()
        decoder = thinker.model.language_model
        if not weights:
            install(decoder, decoder.config.rope_parameters["mrope_section"])
            return Thinker(thinker, None)
        install(decoder, sections or (sieve_file and sieve_file.sections) or sync_sections(decoder, folder))
        return Thinker(thinker, build_sieve(weights, decoder, folder, device=quantize.main_device(thinker)))

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


class QwenOmni(Thinker):
    """A model that answers questions about clips, behind the protocol `AVModel`. Its methods take one clip."""

    def __init__(self, weights: Thinker, inputs: Inputs, name: str) -> None:
        """`name`: for the report."""
        super().__init__(weights.thinker, weights.sieve)
        self.name, self.inputs = name, inputs
        self.tokenizer, self.stop_ids = inputs.tokenizer, inputs.stop_ids
        self.holds_media = (
            self.device.type != "cpu"
        )  # those of the last question: the next is often about the same clip
        self._media: tuple[weakref.ref[Features], int, Segment] | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        quantization: str = "none",
        on_progress: Progress = None,
    ) -> QwenOmni:
        """Weights, tokenizer and preprocessors.

        Args:
            folder: a checkpoint folder, or a sieve file (sieve_file.py), whose base is then loaded too.
            name: for the report.
            quantization: "none", "nf4" or "int8", of the decoder's linear layers.
            on_progress: called with the share of the weights that was read, 0 to 1.

        Raises:
            WeightsError: files missing, damaged or not fitting each other.
            CapacityError: the weights fit neither device nor host.
        """
        file = None
        if folder.is_file():
            file = SieveFile.read(folder)
            folder = file.base_folder()
        look(folder)
        inputs = Inputs(folder)  # before the weights, which take long
        weights = Thinker.load(
            folder, dtype=dtype, device=device, quantization=quantization, sieve_file=file, on_progress=on_progress
        )
        return cls(weights, inputs, name)

    @torch.inference_mode()
    def encode_video(self, clip: Clip) -> VideoFeatures | None:
        """(N, H, W, 3) frames -> (ceil(N / 2), H / 28, W / 28, D), a grid for each pair of frames, on the CPU.

        The time of a grid is that of its first frame.
        """
        if clip.frames is None or clip.frame_times_s is None:
            return None
        inputs, frames = self.inputs, clip.frames
        cells = (frames.shape[1] // inputs.patch) * (frames.shape[2] // inputs.patch)
        window = tower_attention.WINDOW_GRIDS  # a batch is cut at whole windows of the attention that is told
        batch = max(BATCH_PATCHES // cells // window, 1) * window * inputs.pair
        grids, paid = [], []
        for start in range(0, len(frames), batch):
            pixels, (t, rows, cols) = inputs.patches(frames[start : start + batch], self.device)
            grid = torch.tensor([[t, rows, cols]], device=self.device)
            found, attention = tower_attention.video_features(self.thinker.model, pixels, grid)
            size = (t, rows // inputs.merge, cols // inputs.merge)
            grids.append(found.view(*size, -1))
            paid.append(attention.view(size))
        times = torch.from_numpy(clip.frame_times_s).double()
        step = inputs.pair * frame_step(times, clip)
        return VideoFeatures(torch.cat(grids).cpu(), times[:: inputs.pair].clone(), step, torch.cat(paid).cpu())

    @torch.inference_mode()
    def encode_audio(self, clip: Clip) -> AudioFeatures | None:
        """(S,) samples -> (A, D), 25 a second, on the CPU; in windows of 300 s, which changes nothing."""
        if clip.samples is None:
            return None
        tokens, paid = [], []
        for mel in self.inputs.mel(clip.samples):
            mask = torch.ones(1, mel.shape[2], dtype=torch.int64, device=self.device)
            found, attention = tower_attention.audio_features(self.thinker.model, sent(mel, self.device), mask)
            tokens.append(found)
            paid.append(attention)
        if not tokens:
            return None
        return AudioFeatures(torch.cat(tokens).cpu(), POSITION_STEP_S, None, torch.cat(paid).cpu())

    @torch.inference_mode()
    def stream(
        self, features: Features, question: str, system: str | None, history: Sequence[Turn] = ()
    ) -> TokenStream:
        """Chat markup, media and question. Sound and picture of a clip are interleaved in chunks of 2 s."""
        config, table = self.thinker.config, self.decoder.get_input_embeddings()
        before, after = self.inputs.prompt(question, system, history)
        around = (
            config.vision_start_token_id,
            config.audio_start_token_id,
            config.audio_end_token_id,
            config.vision_end_token_id,
        )
        written = table(torch.tensor([*before, *around, *after], device=self.device)).to(self.dtype)
        head, markers, tail = written.split([len(before), len(around), len(after)])
        media = self._placed(features, markers, len(before))
        return join([text(head, 0), media, text(tail, media.next_position)], self.dtype, self.device)

    def _placed(self, features: Features, markers: Tensor, start: int) -> Segment:
        """Sound and picture in reading order from position `start` on; on the device, if they are held there."""
        if self._media is not None:
            known, begin, media = self._media
            if known() is features and begin == start:
                return media
        self._media = None
        assert not isinstance(features.video, SeenFeatures)  # `encode_video` makes grids
        video = None if features.video is None else video_tokens(features.video)
        audio = None if features.audio is None else AudioTokens(features.audio.tokens, 1, features.audio.attention)
        media = interleave(video, audio, markers, start)
        if self.holds_media and len(media.embeds) * media.embeds.shape[1] * self.dtype.itemsize <= HELD_BYTES:
            media = replace(media, embeds=sent(media.embeds.to(self.dtype), self.device))
            self._media = weakref.ref(features), start, media
        return media


def frame_step(times_s: Tensor, clip: Clip) -> float:
    """Seconds from one sampled frame to the next; 0 for a still picture.

    Frames come from equal intervals of the range. Where it has a part without picture at its beginning or end, the
    frames' own distance is what tells.
    """
    count, spread = len(times_s), float(times_s[-1] - times_s[0])
    step = clip.duration_s / count
    covered = clip.duration_s - spread <= 2 * step + 1e-3
    return step if covered or count < 2 else spread / (count - 1)


def video_tokens(video: VideoFeatures) -> VideoTokens:
    """The grids at the positions and in the chunks that transformers' processor and `get_rope_index` give them."""
    steps = grid_steps(video)
    chunks = grid_chunks(steps, video.grid.shape[1] * video.grid.shape[2])
    return VideoTokens(video.grid, video.times_s, video.step_s, steps, chunks, video.attention)


def grid_steps(video: VideoFeatures) -> Tensor:
    """(T,) int64 position steps of a video's grids: even steps, as transformers has them, from the first's interval on.

    The product is taken in float32, where transformers takes it.
    """
    if not video.step_s:
        return torch.zeros(len(video.grid), dtype=torch.int64)
    frame = video.step_s / 2
    begin = int(float(video.times_s[0]) / frame + 1e-6) * frame
    even = torch.arange(len(video.grid)) * torch.tensor(video.step_s, dtype=torch.float32) * 25
    return even.long() + round(begin / POSITION_STEP_S)


def grid_chunks(steps: Tensor, cells: int) -> Tensor:
    """(T,) position steps of grids of so many cells -> (T * cells,) int64 chunk of 2 s in which each token stands.

    A grid that lies c chunks after the one before gives its first tokens to the chunks between, one each: that is what
    transformers does.
    """
    chunks, now = [torch.zeros(0, dtype=torch.int64)], 0
    for step in steps.tolist():
        ahead = max(step // CHUNK_STEPS - now, 0)
        chunks.append(now + torch.arange(1, cells + 1).clamp(max=ahead))
        now += min(cells, ahead)
    return torch.cat(chunks)


def thinker_tensors(folder: Path, *, mapped: bool = True) -> dict[str, Any]:
    """The thinker's tensors of a checkpoint by their published names, each read when it is needed.

    `mapped`: through a memory map, whose pages stay with the process; else each into memory of its own.

    Whatever else the files hold (talker, token2wav, a sieve) is left out, and files without the thinker may be missing.
    Raises WeightsError.
    """
    found: dict[str, Any] = {}
    if not mapped:
        found = dict(reading.unmapped(list(look(folder, words=False).shards)))
        return {key: part for key, part in found.items() if not key.startswith((*UNUSED, *SIEVE))}
    for path in weight_files(folder):
        try:
            file: Any = safe_open(path, "pt")  # stays open as long as a slice of it is held
            if "epcli" in (file.metadata() or {}):  # a sieve file that lies beside its base
                continue
            for key in file.keys():  # noqa: SIM118 (not a dict)
                if not key.startswith((*UNUSED, *SIEVE)):
                    found[key] = file.get_slice(key)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path}: cannot be read: {_first_line(error)}; fetch the checkpoint again") from error
        except RuntimeError as error:  # torch's word on a file that cannot be mapped
            raise CapacityError(f"{path}: cannot be mapped into memory; close other programs") from error
    return found


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


def sync_sections(decoder: Any, folder: Path) -> Sequence[int]:
    """Sync-RoPE's four sections for a checkpoint: what its config says, else the paper's. Raises WeightsError."""
    config = decoder.config
    said = config.rope_parameters.get("mrope_section", ())
    if len(said) == len(PAPER_SECTIONS):
        return said
    half = config.hidden_size // config.num_attention_heads // 2
    if all(size * half % sum(PAPER_SECTIONS) == 0 for size in PAPER_SECTIONS):  # the paper's split, to scale
        return [size * half // sum(PAPER_SECTIONS) for size in PAPER_SECTIONS]
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
