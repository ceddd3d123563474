"""NanoDet-g, which finds the 80 kinds of things of COCO in a picture: names, scores and boxes.

The network is the "g" variant of NanoDet (CustomCspNet, PAN and generalised focal heads, 3.8 M parameters) as published
by RangiLyu/nanodet for 416 x 416 pixels. Batch normalisation is folded into the convolutions.

    frames ─▶ longest side 416 ─▶ CSP stages ─▶ strides 8, 16, 32 ─▶ PAN ─▶ scores, and a distribution of each box side
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from epcli.models.blank import blank

SIDE = 416  # pixels of the longest side, as in training
STRIDES = (8, 16, 32)
BINS = 11  # of the distribution of the distance from a cell's centre to a side of the box, in strides
BATCH = 8  # frames looked at together
MEAN = (103.53, 116.28, 123.675)  # of blue, green and red
STD = (57.375, 57.12, 58.395)
OVERLAP = 0.6  # of two boxes of a class (intersection over union), from which only the better one stays
INSIDE = 0.8  # share of a box inside a better one of its class, from which it goes
CLASSES = (  # of COCO, in the order of the scores, as people say them (lab/everyday/coco.txt)
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "television", "laptop", "computer mouse", "remote control", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair dryer", "toothbrush",
)  # fmt: skip


@dataclass(frozen=True)
class Detection:
    """One thing in one frame."""

    name: str  # one of CLASSES
    score: float  # 0 to 1
    box: tuple[float, float, float, float]  # left, top, right, bottom as shares of width and height


class _Conv(nn.Conv2d):
    """A 3 x 3 convolution with LeakyReLU."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__(channels, out, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), 0.1)


class _Split(nn.Module):
    """Two convolutions of half the width, side by side in the output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Conv(channels, channels // 2)
        self.second = _Conv(channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return torch.cat([self.second(first), first], 1)


class _Stage(nn.Module):
    """A cross-stage partial block: (N, channels, H, W) -> (N, 2 * out, H / stride, W / stride)."""

    def __init__(self, channels: int, out: int, repeats: int, stride: int) -> None:
        super().__init__()
        self.enter = _Conv(channels, out, stride)
        self.splits = nn.Sequential(*(_Split(out) for _ in range(repeats)))
        self.leave = _Conv(out, out)

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        return torch.cat([self.leave(self.splits(entered)), entered], 1)


class _Head(nn.Module):
    """(N, 128, h, w) -> (N, 80 + 4 * BINS, h, w) logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _Conv(width, width)
        self.predict = nn.Conv2d(width, len(CLASSES) + 4 * BINS, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.predict(self.conv(x))
        return logits


class NanoDet(nn.Module):
    """Frozen NanoDet-g."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, 32, 2)
        self.stages = nn.ModuleList(
            [_Stage(32, 32, 1, 1), _Stage(64, 64, 2, 2), _Stage(128, 128, 2, 2), _Stage(256, 256, 3, 2)]
        )
        self.laterals = nn.ModuleList([nn.Conv2d(width, 128, 1) for width in (128, 256, 512)])
        self.heads = nn.ModuleList([_Head(128) for _ in STRIDES])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) normalised BGR, H and W multiples of 32 -> (N, A, 80) scores and (N, A, 4) boxes.

        Boxes are left, top, right, bottom in pixels of the input. The A cells are those of stride 8, 16 and 32, row by
        row.
        """
        x = F.max_pool2d(self.stem(x), 3, 2, padding=1)
        levels = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index:
                levels.append(self.laterals[index - 1](x))
        for index in (1, 0):
            levels[index] = levels[index] + F.interpolate(levels[index + 1], scale_factor=2.0, mode="bilinear")
        for index in (1, 2):
            levels[index] = levels[index] + F.avg_pool2d(levels[index - 1], 2)  # what bilinear halving is
        scores, boxes = zip(
            *(_decode(head(level), stride) for head, level, stride in zip(self.heads, levels, STRIDES, strict=True)),
            strict=True,
        )
        return torch.cat(scores, 1), torch.cat(boxes, 1)

    @torch.inference_mode()
    def detect(self, frames: Sequence[np.ndarray], threshold: float = 0.3) -> list[list[Detection]]:
        """(H, W, 3) uint8 RGB frames, all of one size -> the things in each, surest first, with `threshold` or more."""
        found: list[list[Detection]] = []
        for start in range(0, len(frames), BATCH):
            pixels, scale = letterbox(frames[start : start + BATCH])
            for scores, boxes in zip(*self(pixels), strict=True):
                shares = boxes.numpy() / (scale[0], scale[1], scale[0], scale[1])
                found.append(select(scores.numpy(), np.clip(shares, 0, 1), threshold))
        return found


def _decode(logits: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """(N, 80 + 4 * BINS, h, w) -> (N, h * w, 80) scores and (N, h * w, 4) boxes, pixels.

    The distance to each side is the mean of its distribution (generalised focal loss, arXiv 2006.04388, eq. 6).
    """
    n, _, h, w = logits.shape
    flat = logits.flatten(2).transpose(1, 2).float()
    scores, sides = flat.split([len(CLASSES), 4 * BINS], -1)
    distance = sides.reshape(n, h * w, 4, BINS).softmax(-1) @ torch.arange(BINS, dtype=torch.float32)
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    centre = torch.stack([x, y], -1).reshape(h * w, 2)
    boxes = torch.cat([centre - distance[..., :2], centre + distance[..., 2:]], -1) * stride
    return scores.sigmoid(), boxes


def letterbox(frames: Sequence[np.ndarray]) -> tuple[Tensor, tuple[float, float]]:
    """(H, W, 3) uint8 RGB frames of one size -> (N, 3, h, w) normalised BGR, and the picture's width and height in it.

    The longest side becomes SIDE pixels, and black is added on the right or below up to a multiple of 32.
    """
    height, width = frames[0].shape[:2]
    factor = SIDE / max(height, width)
    w, h = max(1, round(width * factor)), max(1, round(height * factor))
    padded = np.zeros((len(frames), -(-h // 32) * 32, -(-w // 32) * 32, 3), np.uint8)
    for frame, target in zip(frames, padded, strict=True):
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        target[:h, :w] = cv2.resize(frame[..., ::-1], (w, h), interpolation=how)
    pixels = torch.from_numpy(padded).permute(0, 3, 1, 2).float()  # channels stay last in memory, which is faster
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None], (w, h)


def select(scores: np.ndarray, boxes: np.ndarray, threshold: float) -> list[Detection]:
    """(A, 80) scores and (A, 4) boxes of one frame -> its things, surest first, each one once."""
    cell, label = (scores >= threshold).nonzero()
    score, box = scores[cell, label], boxes[cell]
    if not len(cell):
        return []
    corner_and_size = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], 1)
    kept = cv2.dnn.NMSBoxesBatched(corner_and_size.tolist(), score.tolist(), label.tolist(), threshold, OVERLAP)
    order = sorted((int(index) for index in kept), key=lambda index: -score[index])
    things: list[Detection] = []
    for index in order:
        left, top, right, bottom = (float(side) for side in box[index])
        thing = Detection(CLASSES[label[index]], float(score[index]), (left, top, right, bottom))
        if not any(other.name == thing.name and share_inside(thing.box, other.box) >= INSIDE for other in things):
            things.append(thing)
    return things


def share_inside(box: Sequence[float], other: Sequence[float]) -> float:
    """The share of `box` that lies in `other`, 0 to 1."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return intersection(box, other) / area if area > 0 else 0.0


def overlap(box: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union, 0 to 1."""
    both = intersection(box, other)
    either = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)) - both
    return both / either if either > 0 else 0.0


def intersection(box: Sequence[float], other: Sequence[float]) -> float:
    """The area that two boxes share."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def load_nanodet() -> NanoDet:
    """NanoDet-g in float32, from the weights that come with the package."""
    with blank():
        model = NanoDet()
    stored = load(files("epcli.observe").joinpath("data/nanodet.safetensors").read_bytes())
    model.load_state_dict({name: value.float() for name, value in stored.items()}, assign=True)
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    return model.eval().requires_grad_(False)
