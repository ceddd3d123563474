"""YAMNet, the sound tower of ep-smol: 521 classes of AudioSet and the 1024 features behind them.

A MobileNet v1 over log-mel patches of 0.96 s (tensorflow/models, research/audioset/yamnet). The weights come from a
quantized ONNX graph whose float weights are still there, in front of the quantization; they run here unquantized, with
batch normalisation already folded into the convolutions.
"""

from __future__ import annotations

import csv
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from epcli.models.blank import blank
from epcli.observe.weights import YAMNET_CLASSES, YAMNET_ONNX, prepared
from epcli.records import SAMPLE_RATE

MEL_HOP = 160  # samples: 10 ms, one mel frame
MEL_WINDOW = 400  # samples: 25 ms
PATCH_FRAMES = 96  # mel frames the network sees at once
PATCH_SAMPLES = (PATCH_FRAMES - 1) * MEL_HOP + MEL_WINDOW  # 15600: 0.975 s
WIDTH = 1024
EARLY = {10: 256, 14: 512, 18: 512, 22: 512, 24: 1024}  # convolutions whose outputs are features too: channels of each
EARLY_WIDTH = sum(EARLY.values())
_PATCHES_AT_ONCE = 32  # bounds memory on long sound: about 0.2 GB

# Output channels and stride of the 13 separable convolutions after the first, plain one (yamnet.py, _YAMNET_LAYER_DEFS)
_SEPARABLE = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1),
    (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


class Yamnet(nn.Module):
    """Frozen YAMNet. `class_names[c]` is the AudioSet name of logit c."""

    class_names: tuple[str, ...]  # 521
    mel_bank: Tensor  # (257, 64)
    window: Tensor  # (400,)

    def __init__(self, class_names: tuple[str, ...], hop: int) -> None:
        super().__init__()
        self.class_names = class_names
        self.hop = hop  # mel frames from one patch to the next
        convolutions = [nn.Conv2d(1, 32, 3, stride=2)]
        for channels, stride in _SEPARABLE:
            before = convolutions[-1].out_channels
            convolutions += [nn.Conv2d(before, before, 3, stride, groups=before), nn.Conv2d(before, channels, 1)]
        self.convolutions = nn.Sequential(*convolutions)
        self.classifier = nn.Linear(WIDTH, len(class_names))

    @property
    def hop_s(self) -> float:
        """Seconds from one patch to the next; the first patch is centred at 0.48 s."""
        return self.hop * MEL_HOP / SAMPLE_RATE

    def init_front_end(self, device: str | torch.device) -> None:
        """Compute what is not in the weights file: window and mel filters (triangles in mel, as TensorFlow's are)."""
        bank = mel_filter_bank(257, 64, 125, 7500, SAMPLE_RATE, mel_scale="htk", triangularize_in_mel_space=True)
        self.register_buffer("mel_bank", torch.tensor(bank, dtype=torch.float32, device=device), persistent=False)
        self.register_buffer("window", torch.hann_window(MEL_WINDOW, device=device), persistent=False)

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) 16 kHz in [-1, 1] -> features (B, P, 1024 + EARLY_WIDTH), class logits (B, P, 521).

        P as in `patch_count`. The last layer's features stand first; then those of EARLY, where timbre is still told
        apart that AudioSet has no classes for. The classes are not exclusive: their probabilities are sigmoids of the
        logits.
        """
        patches = patch_count(samples.shape[-1], self.hop)
        step = self.hop * MEL_HOP
        samples = F.pad(samples, (0, (patches - 1) * step + PATCH_SAMPLES - samples.shape[-1]))
        features = []
        for first in range(0, patches, _PATCHES_AT_ONCE):
            last = min(first + _PATCHES_AT_ONCE, patches) - 1
            mel = self.log_mel(samples[:, first * step : last * step + PATCH_SAMPLES])
            cut = mel.unfold(1, PATCH_FRAMES, self.hop).transpose(2, 3)  # (B, P, 96, 64)
            features.append(self.patches(cut.flatten(0, 1)).unflatten(0, cut.shape[:2]))
        both = torch.cat(features, 1)
        return both, self.classifier(both[..., :WIDTH])

    def log_mel(self, samples: Tensor) -> Tensor:
        """(B, S) -> (B, frames, 64): magnitude, 64 HTK mel bands of 125 to 7500 Hz, log(x + 0.001)."""
        frames = samples.unfold(-1, MEL_WINDOW, MEL_HOP) * self.window
        return torch.log(torch.fft.rfft(frames, 512).abs() @ self.mel_bank + 0.001)

    def patches(self, mel: Tensor) -> Tensor:
        """(N, 96, 64) log-mel patches -> (N, 1024 + EARLY_WIDTH), each feature averaged over its patch."""
        x, early = mel[:, None], []
        for index, convolution in enumerate(self.convolutions):
            if convolution.kernel_size == (3, 3):  # TensorFlow's "same" padding of an even size
                x = F.pad(x, (0, 1, 0, 1) if convolution.stride == (2, 2) else (1, 1, 1, 1))
            x = F.relu(convolution(x))
            if index in EARLY:
                early.append(x.mean((2, 3)))
        return torch.cat([x.mean((2, 3)), *early], -1)


def patch_count(samples: int, hop: int) -> int:
    """Patches of `samples` 16 kHz samples at `hop` mel frames: one, and one more for each hop begun after it.

    Patch p starts at sample p * hop * 160; the end is padded with silence.
    """
    return 1 + math.ceil(max(0, samples - PATCH_SAMPLES) / (hop * MEL_HOP))


def prepare(verify: bool = False) -> Path:
    """The folder with `model.safetensors` (float32, 15 MB) and `classes.txt`, fetched and converted if need be."""
    return prepared("yamnet.1", [YAMNET_ONNX, YAMNET_CLASSES], _convert, verify=verify)


def load_yamnet(hop: int = PATCH_FRAMES // 2, device: str | torch.device = "cpu") -> Yamnet:
    """Load YAMNet in float32, with a patch every `hop` mel frames of 10 ms.

    Raises WeightsError if it is not cached and cannot be downloaded.
    """
    folder = prepare()
    with blank():
        model = Yamnet(load_class_names(), hop)
    model.load_state_dict(load_file(folder / "model.safetensors", device=str(device)), assign=True)
    model.init_front_end(device)
    return model.eval().requires_grad_(False)


def load_classifier() -> tuple[Tensor, Tensor]:
    """(521, 1024) weight and (521,) bias of the classifier alone. Raises WeightsError as the whole tower does."""
    with safe_open(prepare() / "model.safetensors", "pt") as file:
        return file.get_tensor("classifier.weight"), file.get_tensor("classifier.bias")


def load_class_names() -> tuple[str, ...]:
    """AudioSet's 521 class names in the order of the logits. Raises WeightsError as the whole tower does."""
    return tuple((prepare() / "classes.txt").read_text(encoding="utf-8").splitlines())


def _convert(files: list[Path], folder: Path) -> None:
    onnx_file, class_file = files
    with class_file.open(encoding="utf-8", newline="") as rows:
        names = [row["display_name"] for row in csv.DictReader(rows)]
    (folder / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")

    tensors = _onnx_tensors(onnx_file)
    state = {f"classifier.{name}": tensors[f"model.classifier.{name}"] for name in ("weight", "bias")}
    # The exporter counted upward: onnx::Conv_241 is the first convolution's weight, 242 its bias, 244 the next weight
    counters = (name.removeprefix("onnx::Conv_") for name in tensors)
    numbers = sorted(int(counter) for counter in counters if counter.isdigit())
    for index, (weight, bias) in enumerate(zip(numbers[::2], numbers[1::2], strict=True)):
        state[f"convolutions.{index}.weight"] = tensors[f"onnx::Conv_{weight}"]
        state[f"convolutions.{index}.bias"] = tensors[f"onnx::Conv_{bias}"].flatten()
    save_file(state, folder / "model.safetensors")


def _onnx_tensors(file: Path) -> dict[str, Tensor]:
    """The float tensors of a zipped ONNX model with its data beside it, by name.

    Reads the few protobuf fields that are needed (numbers of onnx.proto3): the onnx package would be 36 MB for this.
    """
    with zipfile.ZipFile(file) as archive:
        model, data = (
            memoryview(archive.read(next(name for name in archive.namelist() if name.endswith(end))))
            for end in ("/model.onnx", "/model.data")
        )
    tensors = {}
    (graph,) = _fields(model)[7]  # ModelProto.graph
    for initializer in _fields(graph)[5]:  # GraphProto.initializer: a TensorProto each
        fields = _fields(initializer)
        if fields[2] != [_FLOAT]:  # data_type
            continue
        raw = fields[9][0] if 9 in fields else data  # raw_data
        if 13 in fields:  # external_data: pairs of strings
            place = {bytes(_fields(pair)[1][0]): int(bytes(_fields(pair)[2][0])) for pair in fields[13][1:]}
            raw = data[place[b"offset"] :][: place[b"length"]]
        (name,) = fields[8]
        shape = fields.get(1, [])  # dims
        tensors[bytes(name).decode()] = torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(shape)
    return tensors


_FLOAT = 1  # TensorProto.DataType


def _fields(message: memoryview) -> dict[int, list[Any]]:
    """The fields of a protobuf message by number: integers (of a varint) or the bytes of anything else."""
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:  # wire type
            case 0:
                value, at = _varint(message, at)
                fields.setdefault(key >> 3, []).append(value)
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(message, at)
            case 5:
                size = 4
            case other:
                raise ValueError(f"protobuf wire type {other}")
        fields.setdefault(key >> 3, []).append(message[at : at + size])
        at += size
    return fields


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A base-128 integer, lowest seven bits first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
