"""Numbers that left their format's range: told in one line, instead of an answer made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from epcli.errors import EpError, UsageError, WeightsError
from epcli.models.family import AVModel
from epcli.records import AudioFeatures, SeenFeatures, VideoFeatures


def check_features(model: AVModel, video: VideoFeatures | SeenFeatures | None, audio: AudioFeatures | None) -> None:
    """Raises UsageError or WeightsError if what the towers made is not finite throughout."""
    if isinstance(video, VideoFeatures) and not _finite(video.grid):
        raise overflow(model, "vision tower")
    if audio is not None and not _finite(audio.tokens):
        raise overflow(model, "audio tower")


def overflow(model: AVModel, what: str) -> EpError:
    """The error for numbers of `what` that are infinite or NaN: a format too narrow, or damaged weights."""
    if model.dtype == torch.float16:
        return UsageError(
            f"the {what} of {model.name} overflows in float16, so there is no answer; "
            "use --dtype bf16 or --dtype fp32 (with --quantize nf4 where memory is short)"
        )
    return WeightsError(f"the {what} of {model.name} gives numbers that are not finite; fetch the weights again")


def _finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())
