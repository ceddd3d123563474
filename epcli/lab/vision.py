"""Teach the vision tower's last blocks to see drawings too: ImageNet's photographs made it.

Everything up to stride 16 stays frozen, so its output is computed once a picture and the last five blocks and the head,
2.7 million weights, are trained on cells: which thing, or nothing, does this 32-pixel cell show.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from epcli.lab.pools import NOTHING, UNSURE, cell_labels, cells_to_name
from epcli.lab.scenes import SIZES, Library, draw_view, new_view
from epcli.models.smol.model import TUNED_BLOCKS, Towers, tune_vision
from epcli.observe.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0

AT_ONCE = 8  # pictures


def draw(lib: Library, count: int, seed: int, size: tuple[int, int], first: int = 0) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) uint8 pictures and (N, rows, cols) cell labels, every thing in turn, from the `first` on."""
    rng, nr = random.Random(seed), np.random.default_rng(seed)
    number = {name: i for i, name in enumerate(lib.seen_names)}
    frames, labels = [], []
    for i in range(count):
        view = new_view(lib, rng, 0.0, 0.0, lib.seen[(first + i) % len(lib.seen)], [])
        frame, boxes = draw_view(view, size, nr)
        frames.append(torch.from_numpy(frame).permute(2, 0, 1))
        labels.append(cell_labels(size, boxes, [number[o.thing.name] for o in view.objects]))
    return torch.stack(frames), torch.stack(labels)


def named_cells(
    lib: Library,
    towers: Towers,
    count: int,
    seed: int,
    *,
    nothing: float = 0.12,
    say: Callable[[str], None] = print,
) -> tuple[Tensor, Tensor]:
    """(M, VIDEO_WIDTH) float16 cells of `count` pictures and (M,) their names: all of things, some of nothing."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    cells, names = [], []
    for at in range(0, count, AT_ONCE):
        frames, labels = draw(lib, AT_ONCE, rng.randrange(1 << 30), rng.choice(SIZES), at)
        shown, called = cells_to_name(towers.encode_frames(frames.float()), labels, generator, nothing)
        cells.append(shown)
        names.append(called)
        if at % 1600 == 0:
            say(f"pictures: {at}/{count}")
    return torch.cat(cells), torch.cat(names)


@torch.inference_mode()
def trunk(tower: EfficientNetLite0, frame: Tensor) -> Tensor:
    """(1, 3, H, W) uint8 -> what enters the trained blocks, (1, 112, H/16, W/16)."""
    x = ((frame.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
    return tower.blocks[:TUNED_BLOCKS](F.relu6(tower.stem(x)))


class Late(nn.Module):
    """The trained part, and a classifier of cells that is thrown away."""

    def __init__(self, tower: EfficientNetLite0, names: int) -> None:
        super().__init__()
        self.blocks, self.head = tower.blocks[TUNED_BLOCKS:], tower.head
        self.classifier = nn.Linear(1280, names + 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.head(self.blocks(x))).permute(0, 2, 3, 1)


def tune(
    lib: Library,
    held: Library,
    out: Path,
    *,
    views: int = 8000,
    minutes: float = 12.0,
    seed: int = 5,
    begin: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train, from `begin` if given, and write `out` (bfloat16 safetensors of the blocks and head).

    What is written is the mean of the trained weights and ImageNet's (WiSE-FT, arXiv 2109.01903).
    """
    tower, teacher = load_efficientnet_lite0(), load_efficientnet_lite0()
    old = Late(teacher, 0)
    if begin is not None:
        tune_vision(tower, begin)
    late = Late(tower, len(lib.seen_names)).requires_grad_(True)
    nothing = len(lib.seen_names)
    data: list[tuple[Tensor, Tensor]] = []
    start = time.perf_counter()
    for k, size in enumerate(dict.fromkeys(SIZES)):
        frames, labels = draw(lib, round(views * SIZES.count(size) / len(SIZES)), seed + k, size)
        x = torch.cat([trunk(tower, f[None]).half() for f in frames])
        data += [(x[i : i + 16], labels[i : i + 16]) for i in range(0, len(x) - 15, 16)]
    say(f"{len(data) * 16} pictures drawn and through the trunk in {time.perf_counter() - start:.0f} s")
    frames, labels = draw(held, 400, 77, SIZES[0])
    test = torch.cat([trunk(tower, f[None]) for f in frames]), labels
    groups = [
        {"params": [*late.blocks.parameters(), *late.head.parameters()], "lr": 3e-4, "peak": 3e-4},
        {"params": late.classifier.parameters(), "lr": 2e-3, "peak": 2e-3},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    rng, start, step = random.Random(seed), time.perf_counter(), 0
    losses: list[float] = []
    reported = 0.0
    while (spent := (time.perf_counter() - start) / 60) < minutes:
        share = spent / minutes
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(1.0, (step + 1) / 30) * 0.5 * (1 + np.cos(np.pi * share))
        x, y = rng.choice(data)
        features = late(x.float().contiguous(memory_format=torch.channels_last))
        logits, target = late.classifier(F.dropout(features, 0.2)).flatten(0, 2), y.flatten().clone()
        weight = torch.where(target == NOTHING, 0.15, 1.0) * (target != UNSURE)
        target[target < 0] = nothing
        loss = (F.cross_entropy(logits, target, reduction="none", label_smoothing=0.1) * weight).sum() / weight.sum()
        optimizer.zero_grad()
        if step % 2:  # what ImageNet taught must stay readable for its classifier: photographs need it
            with torch.no_grad():
                target = teacher.classifier(old(x.float())).softmax(-1)
            says = teacher.classifier(features).log_softmax(-1)
            (loss + 0.5 * F.kl_div(says, target, reduction="none").sum(-1).mean()).backward()
        else:
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if spent - reported > 1.5:
            reported = spent
            mean, found = np.mean(losses[-100:]), score(late, *test)
            say(f"{spent:.1f} min, {step} steps: loss {mean:.3f}, held-out cells {found:.3f}")
    say(f"{step} steps: held-out cells named right {score(late, *test):.3f}")
    trained = {k: v for k, v in late.state_dict().items() if not k.startswith("classifier")}
    # Half way between what was trained and what ImageNet made: names as many drawings, and more of what it knows.
    begun = old.state_dict()
    state = {k: ((v.detach() + begun[k]) / 2).bfloat16().contiguous() for k, v in trained.items()}
    save_file(state, out)


@torch.inference_mode()
def score(late: Late, x: Tensor, y: Tensor) -> float:
    """Share of the cells that show a thing which are named right among the things."""
    logits = torch.cat([late.classifier(late(part))[..., :-1] for part in x.split(16)])
    shows = y >= 0
    return float((logits.argmax(-1)[shows] == y[shows]).float().mean())
