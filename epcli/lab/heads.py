"""Warm-up without the language model: each head learns to name what a cell shows, or its colour."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from epcli.lab.pools import NOTHING, UNSURE, TrackPool, ViewPool, cells_to_name
from epcli.models.smol.model import COLOURS, Adapter, PictureHead
from epcli.session.device import cpu_has_bf16


def tint_cells(pool: ViewPool, generator: torch.Generator, share: float = 0.3) -> tuple[Tensor, Tensor]:
    """(M, VIDEO_WIDTH) cells and (M,) colours, NOTHING for none with a name, of a share of all cells."""
    features, labels = [], []
    for size, grid in pool.grids.items():
        flat, label = grid.flatten(0, 2), pool.tints[size].flatten()
        use = (label != UNSURE) & (torch.rand(len(label), generator=generator) < share)
        features.append(flat[use])
        labels.append(label[use])
    return torch.cat(features), torch.cat(labels)


def fit_tint(adapter: Adapter, features: Tensor, labels: Tensor, epochs: int, *, batch: int = 2048) -> None:
    """Train the colour head."""
    optimizer = torch.optim.AdamW(adapter.tint.parameters(), lr=3e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(1)
    adapter.tint.train()
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - epoch / epochs)
        for rows in torch.randperm(len(features), generator=generator).split(batch):
            x = features[rows].float()
            target = torch.where(labels[rows] == NOTHING, len(COLOURS), labels[rows])
            loss = F.cross_entropy(adapter.tint(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    adapter.tint.eval()


def track_tokens(pool: TrackPool, number: dict[str, int]) -> tuple[Tensor, Tensor]:
    """(M, AUDIO_WIDTH) features and (M, K) which things sound."""
    labels = [pool.labels(i, number) for i in range(len(pool.tracks))]
    return torch.cat([f.tokens for f in pool.features]), torch.cat(labels)


def fit(
    head: PictureHead,
    cells: Tensor,
    labels: Tensor,
    epochs: int,
    *,
    batch: int = 1024,
    lr: float = 2e-3,
    seed: int = 0,
) -> None:
    """Train the head that names pictures on (M, VIDEO_WIDTH) cells."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    some = torch.randperm(len(cells), generator=generator)[:20000]
    head.fit_normalisation(head.tower_features(cells[some].float()))
    optimizer = torch.optim.AdamW(head.layers.parameters(), lr=lr, weight_decay=0.05)
    steps = epochs * (len(cells) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 2), pct_start=0.1)
    nothing = head.names
    head.train()
    for _ in range(epochs):
        order = torch.randperm(len(cells), generator=generator)
        for rows in order.split(batch):
            if len(rows) < batch:
                continue
            with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
                logits = head(cells[rows].float()).float()
            target = torch.where(labels[rows] == NOTHING, nothing, labels[rows])
            loss = F.cross_entropy(logits, target, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    head.eval()


@torch.inference_mode()
def measure(adapter: Adapter, views: ViewPool, tracks: TrackPool) -> dict[str, float]:
    """Share of a pool's cells and single-sound tokens that the heads name right."""
    heard = {name: i for i, name in enumerate(adapter.heard)}
    generator = torch.Generator().manual_seed(0)
    shown = [cells_to_name(grid, views.labels[size], generator, 0.0) for size, grid in views.grids.items()]
    x, y = (torch.cat(part) for part in zip(*shown, strict=True))
    p = adapter.video.probabilities(x.float())
    video = (p.argmax(-1) == y).float().mean()
    x, z = track_tokens(tracks, heard)
    one = z.sum(1) == 1
    audio = (adapter.audio.probabilities(x[one].float()).argmax(-1) == z[one].argmax(-1)).float().mean()
    x, y = tint_cells(views, generator)
    named = y >= 0
    colour = (adapter.tint(x[named].float())[:, :-1].argmax(-1) == y[named]).float().mean()
    return {"cells": float(video), "sounds": float(audio), "colours": float(colour)}


def warm_up(
    adapter: Adapter, named: tuple[Tensor, Tensor], views: ViewPool, say: Callable[[str], None], epochs: int = 6
) -> None:
    """Fit the heads for pictures, on cells with their names and on the colours of a pool.

    Those for sounds learn from the library itself (sounds.py).
    """
    say(f"naming {len(named[0])} cells")
    eye = adapter.video.head
    assert isinstance(eye, PictureHead)
    fit(eye, *named, epochs)
    x, y = tint_cells(views, torch.Generator().manual_seed(0))
    say(f"colours of {len(x)} cells")
    fit_tint(adapter, x, y, 4)
