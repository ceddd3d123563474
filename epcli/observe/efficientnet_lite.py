"""EfficientNet-Lite0: which of ImageNet's 1000 classes a picture shows.

EfficientNet (arXiv 1905.11946, table 1) without squeeze-and-excitation and with ReLU6, as published by Google as
"lite0": MBConv blocks, 32 times smaller at the end. Batch normalisation is folded into the convolutions when the
weights are converted.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from epcli.models.blank import blank
from epcli.observe.weights import LITE0_PTH, prepared

STRIDE = 32  # height and width are multiples of it
WIDTH = 1280
_NORM_EPS = 1e-3  # TensorFlow's

# repeats, kernel, stride of the first, expansion, output channels (arXiv 1905.11946, table 1; the lite stem has 32)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _SameConv(nn.Conv2d):
    """A convolution with bias and TensorFlow's "same" padding of even sizes: a stride of 2 pads one less in front."""

    def forward(self, x: Tensor) -> Tensor:
        total = self.kernel_size[0] - self.stride[0]
        before = total // 2
        return super().forward(F.pad(x, (before, total - before) * 2) if total else x)


class _MBConv(nn.Module):
    """Widen, convolve each channel by itself, narrow; added to the input where the shapes agree."""

    def __init__(self, channels: int, kernel: int, stride: int, expansion: int, out: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = _SameConv(channels, wide, 1) if expansion > 1 else None
        self.depthwise = _SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = _SameConv(wide, out, 1)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x), inplace=True) if self.expand else x
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Frozen EfficientNet-Lite0. `class_names[c]` names logit c."""

    class_names: tuple[str, ...]  # 1000
    classifier: nn.Linear  # 1280 -> 1000

    def __init__(self) -> None:
        super().__init__()
        self.class_names = load_class_names()
        self.stem = _SameConv(3, 32, 3, 2)
        blocks, channels = [], 32
        for repeats, kernel, stride, expansion, out in _STAGES:
            for repeat in range(repeats):
                blocks.append(_MBConv(channels, kernel, 1 if repeat else stride, expansion, out))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = _SameConv(channels, WIDTH, 1)
        self.classifier = nn.Linear(WIDTH, len(self.class_names))

    def class_logits(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 255], any dtype, H and W multiples of 32 -> (N, 1000) logits."""
        x: Tensor = self.blocks(self._stem(frames))
        logits: Tensor = self.classifier(F.relu6(self.head(x), inplace=True).mean((2, 3)))
        return logits

    def _stem(self, frames: Tensor) -> Tensor:
        if frames.shape[2] % STRIDE or frames.shape[3] % STRIDE:
            raise ValueError(f"height and width must be multiples of {STRIDE}, not {tuple(frames.shape[2:])}")
        x = (frames.to(self.stem.weight) - 127) / 128
        return F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)), inplace=True)


def load_class_names() -> tuple[str, ...]:
    """ImageNet's 1000 class names in the order of the logits."""
    text = files("epcli.observe").joinpath("data/imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def prepare(verify: bool = False) -> Path:
    """The folder with `model.safetensors` (float32, 18 MB), fetched and converted if need be."""
    return prepared("efficientnet-lite0.1", [LITE0_PTH], _convert, verify=verify)


def load_efficientnet_lite0(
    dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> EfficientNetLite0:
    """Load EfficientNet-Lite0. Raises WeightsError if it is not cached and cannot be downloaded."""
    file = prepare() / "model.safetensors"
    with blank():
        model = EfficientNetLite0()
    state = {name: value.to(device, dtype) for name, value in load_file(file).items()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def _convert(sources: list[Path], folder: Path) -> None:
    published = torch.load(sources[0], map_location="cpu", weights_only=True)
    with blank():
        model = EfficientNetLite0()
    state = {"classifier.weight": published["_fc.weight"], "classifier.bias": published["_fc.bias"]}

    def fold(name: str, convolution: str, norm: str) -> None:
        """y = (conv(x) - mean) / sqrt(var + eps) * gamma + beta is a convolution with other weights and a bias."""
        gain = published[f"{norm}.weight"] / (published[f"{norm}.running_var"] + _NORM_EPS).sqrt()
        state[f"{name}.weight"] = published[f"{convolution}.weight"] * gain[:, None, None, None]
        state[f"{name}.bias"] = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * gain

    fold("stem", "_conv_stem", "_bn0")
    fold("head", "_conv_head", "_bn1")
    for index, block in enumerate(model.blocks):
        ours, theirs = f"blocks.{index}", f"_blocks.{index}"
        if block.expand:
            fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
