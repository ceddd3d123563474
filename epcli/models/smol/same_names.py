"""Which classes of a tower's own classifier are a name that the adapter was trained on: "tabby" is a cat.

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


def same_names(classes: Sequence[str], names: Sequence[str], source: str) -> Tensor:
    """(2, P) int64: classes above, the names that they are below. `source`: audioset or imagenet."""
    table = files("epcli.models.smol").joinpath(f"data/same_{source}.txt").read_text(encoding="utf-8")
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
