"""Teach the head that names sounds: single sounds, changed without end, straight out of the library.

Scenes hold a sound as its source recorded it, a few times each. A name must also be known from another instrument, room
and microphone, so every stretch is heard through filters, a little higher or lower, in noise, with gaps, and with
another sound. All of that happens to YAMNet's log-mel patches, so it costs next to nothing and is never twice the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from epcli.lab.scenes import Library, load_sound
from epcli.models.smol.adapter import SoundHead, SoundNames
from epcli.observe.loudness import normalise_loudness
from epcli.observe.yamnet import PATCH_FRAMES, PATCH_SAMPLES, Yamnet

SILENCE = float(np.log(0.001))  # of a log-mel value
TOGETHER = 0.4  # of the patches hold a second sound
NAMELESS = 0.12  # of the patches hold speech or nothing but noise: no name holds


class Patches:
    """Log-mel patches of all sounds of a library, with what sounds in them."""

    def __init__(self, lib: Library, yamnet: Yamnet) -> None:
        self.names = lib.heard_names
        number = {name: i for i, name in enumerate(self.names)}
        sounds = [(number[thing.name], path) for thing in lib.heard for path in thing.sounds]
        self.which = torch.tensor([which for which, _ in sounds])
        self.mels = [_log_mel(yamnet, path) for _, path in sounds]
        self.spoken = [_log_mel(yamnet, lib.folder / said["file"]) for said in lib.speech]
        # A name that has few recordings is drawn less often than others, but each of its recordings more often.
        self.weight = torch.bincount(self.which).float()[self.which] ** -0.5

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(N, 96, 64) changed patches and (N, K) which names hold in them."""
        labels = torch.zeros(count, len(self.names))
        power = torch.zeros(count, PATCH_FRAMES, 64)
        second = (torch.rand(count, generator=generator) < TOGETHER).float()
        for part in (torch.ones(count), second):
            rows = torch.multinomial(self.weight, count, replacement=True, generator=generator)
            patches = [_cut(self.mels[i], generator) for i in rows]
            gain = _uniform(-1.2, 0.5, count, generator).exp()
            power += coloured(torch.stack(patches), generator) * (part * gain)[:, None, None]
            labels[torch.arange(count), self.which[rows]] += part
        for i in torch.nonzero(torch.rand(count, generator=generator) < NAMELESS).flatten().tolist():
            labels[i], power[i] = 0.0, 0.0
            if self.spoken and torch.rand((), generator=generator) < 0.7:
                said = int(torch.randint(len(self.spoken), (), generator=generator))
                power[i] = coloured(_cut(self.spoken[said], generator)[None], generator)[0]
        noise = torch.rand(power.shape, generator=generator)
        power += noise * _uniform(-9.0, -5.0, count, generator).exp()[:, None, None]
        return (power + 0.001).log(), labels.clamp(max=1.0)


def fit_sound(
    head: SoundHead,
    yamnet: Yamnet,
    patches: Patches,
    minutes: float,
    *,
    seed: int = 0,
    batch: int = 64,
    say: Callable[[str], None] = print,
) -> None:
    """Train the head; the tower stays frozen. Rates fall to nothing at the end of the minutes."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        head.fit_normalisation(torch.cat([yamnet.patches(patches.draw(batch, generator)[0]) for _ in range(16)]))
    optimizer = torch.optim.AdamW(head.layers.parameters(), lr=2e-3, weight_decay=0.02)
    start, steps, reported, losses = time.perf_counter(), 0, 0.0, [0.0]
    head.train()
    while (share := (time.perf_counter() - start) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (steps + 1) / 50) * (1 - share)
        mel, labels = patches.draw(batch, generator)
        with torch.no_grad():
            features = head.normalise(yamnet.patches(mel))
        logits = head.layers(features)
        target = F.pad(labels, (0, 1)) * 0.95
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses, steps = [*losses[-199:], loss.item()], steps + 1
        if share * minutes - reported > 2:
            reported = share * minutes
            say(f"sounds: {reported:.0f} min, {steps} steps, loss {np.mean(losses):.2f}")
    head.eval()


@torch.inference_mode()
def score(ear: SoundNames, yamnet: Yamnet, lib: Library) -> tuple[float, float]:
    """Shares named right of a library's stretches of 0.96 s, and of its recordings by the mean of their stretches.

    By the head, with what YAMNet's own classes add.
    """
    number = {name: i for i, name in enumerate(lib.heard_names)}
    stretches, recordings = [], []
    for thing in lib.heard:
        for path in thing.sounds:
            mel = _log_mel(yamnet, path)
            starts: Sequence[int] = range(0, max(1, len(mel) - PATCH_FRAMES + 1), PATCH_FRAMES // 2)
            cut = torch.stack([_padded(mel[at : at + PATCH_FRAMES].float()) for at in starts])
            features = yamnet.patches(cut)
            logits = ear.heard(F.pad(features, (0, 1)), None).names
            stretches.append((logits.argmax(1) == number[thing.name]).float().mean().item())
            recordings.append(float(logits.sigmoid().mean(0).argmax() == number[thing.name]))
    return float(np.mean(stretches)), float(np.mean(recordings))


def _log_mel(yamnet: Yamnet, path: Path) -> Tensor:
    """(frames, 64) float16, of at least one patch: a short sound is repeated."""
    sound = normalise_loudness(load_sound(path))
    sound = np.tile(sound, PATCH_SAMPLES // max(len(sound), 1) + 1)[: max(len(sound), PATCH_SAMPLES)]
    with torch.inference_mode():
        return yamnet.log_mel(torch.from_numpy(sound)[None])[0].half()


def _padded(patch: Tensor) -> Tensor:
    return F.pad(patch, (0, 0, 0, PATCH_FRAMES - len(patch)), value=SILENCE)


def _cut(mel: Tensor, generator: torch.Generator) -> Tensor:
    """(frames, 64) -> (96, 64): a random patch; of one in five up to half, at its start or its end, is silent."""
    at = int(torch.randint(max(1, len(mel) - PATCH_FRAMES + 1), (), generator=generator))
    patch = _padded(mel[at : at + PATCH_FRAMES].float())
    if torch.rand((), generator=generator) < 0.2:
        gap = int(torch.randint(PATCH_FRAMES // 2, (), generator=generator))
        quiet = torch.full((gap, 64), SILENCE)
        late = torch.rand((), generator=generator) < 0.5
        patch = torch.cat([quiet, patch[: PATCH_FRAMES - gap]] if late else [patch[gap:], quiet])
    return patch


def coloured(mel: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 96, 64) log-mel -> magnitudes through a smooth random filter (about 5 dB), up to two bands up or down."""
    count = len(mel)
    curve = torch.randn(count, 1, 6, generator=generator) * 0.6
    gains = F.interpolate(curve, 64, mode="linear", align_corners=True)
    shift = torch.randint(-2, 3, (count,), generator=generator)
    band = (torch.arange(64) - shift[:, None]).clamp(0, 63)[:, None].expand(-1, PATCH_FRAMES, -1)
    return ((mel.gather(2, band).exp() - 0.001).clamp(min=0)) * gains.exp()


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
