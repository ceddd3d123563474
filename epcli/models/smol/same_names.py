"""Which of AudioSet's classes are a name that the sound head was trained on: "Bark" is a dog.

A class is the name if it is written so (AudioSet's "Violin, fiddle" is violin and fiddle), or if the file beside the
weights says so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files

import torch
from torch import Tensor


def same_names(classes: Sequence[str], names: Sequence[str]) -> Tensor:
    """(2, P) int64: classes above, the names that they are below."""
    table = files("epcli.models.smol").joinpath("data/same_audioset.txt").read_text(encoding="utf-8")
    also: dict[str, list[str]] = defaultdict(list)
    for line in table.splitlines():
        if not line.startswith("#"):
            name, of = line.split(": ")
            for text in of.split("; "):
                also[text].append(name)
    number = {name.lower(): i for i, name in enumerate(names)}
    pairs = []
    for i, text in enumerate(classes):
        said = re.sub(r" \(.*?\)", "", text.lower()).split(", ") + also[text.lower()]
        pairs += sorted({(i, number[name]) for name in said if name in number})
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T
