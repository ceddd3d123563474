"""EfficientNet-Lite0, the picture tower of ep-smol: a grid of features a cell, and ImageNet's 1000 classes.

EfficientNet (arXiv 1905.11946, table 1) without squeeze-and-excitation and with ReLU6, as published by Google as
"lite0": MBConv blocks, 32 times smaller at the end. Batch normalisation is folded into the convolutions when the
weights are converted.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from epcli.models.blank import blank
from epcli.observe.weights import LITE0_PTH, prepared

STRIDE = 32  # pixels a grid cell covers on each side
WIDTH = 1280
EARLY = ((10, 112), (11, 672), (14, 192), (15, 1152))  # blocks whose outputs or, where wide, middles are features too
EARLY_WIDTH = sum(width for _, width in EARLY)
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

    def middle(self, x: Tensor) -> Tensor:
        """The widest activations, (N, channels * expansion, h, w)."""
        wide = F.relu6(self.expand(x), inplace=True) if self.expand else x
        return F.relu6(self.depthwise(wide), inplace=True)

    def finish(self, x: Tensor, middle: Tensor) -> Tensor:
        """The block's output, from its input and `middle`."""
        y = self.project(middle)
        return x + y if self.residual else y

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(x, self.middle(x))


class EfficientNetLite0(nn.Module):
    """Frozen EfficientNet-Lite0. `class_names[c]` names logit c of `classifier`, which takes the mean of a grid."""

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

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 255], any dtype, H and W multiples of 32 -> (N, H/32, W/32, 1280 + EARLY_WIDTH).

        The last layer's features, >= 0, stand first; then those of EARLY, averaged over a cell.
        """
        x = self._stem(frames)
        early, taken = [], dict(EARLY)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, _MBConv)
            middle = block.middle(x)
            x = block.finish(x, middle)
            if index in taken:
                used = x if x.shape[1] == taken[index] else middle
                early.append(F.avg_pool2d(used, used.shape[2] * STRIDE // frames.shape[2]))
        return torch.cat([F.relu6(self.head(x)), *early], 1).permute(0, 2, 3, 1)

    def class_logits(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 255], any dtype, H and W multiples of 32 -> (N, 1000) logits of ImageNet's classes.

        The same as `classify` of `forward`, for about half of its cost.
        """
        x: Tensor = self.blocks(self._stem(frames))
        logits: Tensor = self.classifier(F.relu6(self.head(x), inplace=True).mean((2, 3)))
        return logits

    def _stem(self, frames: Tensor) -> Tensor:
        if frames.shape[2] % STRIDE or frames.shape[3] % STRIDE:
            raise ValueError(f"height and width must be multiples of {STRIDE}, not {tuple(frames.shape[2:])}")
        x = (frames.to(self.stem.weight) - 127) / 128
        return F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)), inplace=True)

    def classify(self, grids: Tensor) -> Tensor:
        """(N, rows, cols, 1280 or more) -> (N, 1000) logits of ImageNet's classes."""
        return self.classifier(grids[..., :WIDTH].mean((1, 2)))


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


def load_classifier() -> tuple[Tensor, Tensor]:
    """(1000, 1280) weight and (1000,) bias of the classifier alone. Raises WeightsError as the whole tower does."""
    with safe_open(prepare() / "model.safetensors", "pt") as file:
        return file.get_tensor("classifier.weight"), file.get_tensor("classifier.bias")


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
