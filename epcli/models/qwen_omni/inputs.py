"""What goes into Qwen2.5-Omni: pixels, mel spectrograms and token ids.

Tokenizer and feature extractor are transformers' own classes, read from the checkpoint's folder. The picture's numbers
(mean, deviation, patch sizes) are read from the same files; frames come from epcli.media in their final size, so
nothing is resized here. (transformers' video processor itself needs torchvision, which this program does not.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2Tokenizer, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from epcli.errors import WeightsError
from epcli.models import chatml
from epcli.models.qwen_omni.costs import SHORTEST_MEL
from epcli.records import SAMPLE_RATE, Turn

SYSTEM = "You are a helpful assistant."  # the chat template's default, and the reference's


class Inputs:
    """Tokenizer, mel spectrogram and patches of one checkpoint."""

    def __init__(self, folder: Path) -> None:
        """Raises WeightsError if the folder lacks tokenizer or preprocessor files, or they cannot be read."""
        try:
            self.tokenizer: Any = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
            self.extractor: Any = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
            pictures = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            what = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise WeightsError(
                f"{folder}: tokenizer or preprocessor files are missing or damaged ({what}); "
                "fetch the whole checkpoint again"
            ) from error
        if self.tokenizer.convert_tokens_to_ids("<|im_end|>") in (None, self.tokenizer.unk_token_id):
            raise WeightsError(f"{folder}: the tokenizer has no <|im_end|>; fetch tokenizer.json again")
        self.mean = torch.tensor(pictures.image_mean, dtype=torch.float32)
        self.std = torch.tensor(pictures.image_std, dtype=torch.float32)
        self.patch, self.merge = int(pictures.patch_size), int(pictures.merge_size)
        self.pair = int(pictures.temporal_patch_size)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return frozenset(self.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))

    def patches(self, frames: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, tuple[int, int, int]]:
        """(N, H, W, 3) uint8 frames -> (patches, values) float32 as the vision tower reads them, and their grid.

        They travel to `device` as bytes, and become numbers there.

        Two frames make one temporal patch; a last one without a partner is doubled, as transformers does it. The grid
        (T, H / 14, W / 14) counts patches before merging. A patch's values are ordered channel, frame, row, column, and
        patches that merge into one token stand together.
        """
        if odd := -len(frames) % self.pair:
            frames = np.concatenate([frames, np.repeat(frames[-1:], odd, 0)])
        p, m = self.patch, self.merge
        t, rows, cols = len(frames) // self.pair, frames.shape[1] // p, frames.shape[2] // p
        if self.mean.device != torch.device(device):
            self.mean, self.std = self.mean.to(device), self.std.to(device)
        x = (sent(torch.from_numpy(frames), device).float() / 255 - self.mean) / self.std
        x = x.view(t, self.pair, rows // m, m, p, cols // m, m, p, 3)
        x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
        return x.reshape(t * rows * cols, 3 * self.pair * p * p), (t, rows, cols)

    def mel(self, samples: np.ndarray) -> Iterator[Tensor]:
        """(S,) samples at 16 kHz -> (1, bins, M) log-mel windows of at most 300 s, 100 mel frames a second.

        The tower attends within 2 s only, so that windows give the tokens of the whole, 25 a second.
        """
        hop, longest = self.extractor.hop_length, self.extractor.n_samples
        for start in range(0, len(samples), longest):
            window = samples[start : start + longest]
            count = -(-len(window) // hop)
            if count < SHORTEST_MEL:
                continue
            # Padded by what the last mel frame looks ahead, not to 300 s: the rest of that would be cut off anyway.
            padded = min(longest, (count + -(-self.extractor.n_fft // hop)) * hop)
            made = self.extractor(
                window, sampling_rate=SAMPLE_RATE, padding="max_length", max_length=padded, return_tensors="pt"
            )
            yield made["input_features"][:, :, :count]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text: what looks like a special token in it is letters."""
        return chatml.plain_ids(self.tokenizer, text)

    def prompt(self, question: str, system: str | None, history: Sequence[Turn] = ()) -> tuple[list[int], list[int]]:
        """Ids before and after the media, in the chat format of the model; the questions come after the media."""
        return chatml.prompt_ids(self.tokenizer, question, system or SYSTEM, history)


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """Host values on `device`. To CUDA they go through pinned memory, and nobody waits for them."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
