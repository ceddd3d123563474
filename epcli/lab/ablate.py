"""What a trained sieve leans on: the same weights with one thing taken from the refiner.

    causal       a token sees only what stands before it; the question stands after the sound and the picture
    no-text      sound and picture see no text, so the question has no say
    no-cross     sound does not see picture, nor picture sound; both see the text
    three-axes   rotary sections [T, H, W] of the plain model, not Sync-RoPE's [T, H, W, T]
    depth-1 …    only the first layers of the refiner
    plain-states the refiner only chooses: the language model reads the kept tokens as they came, not refined

Nothing is trained anew: this tells what this sieve uses, not what one trained without it would reach, which is what the
paper's ablations measure.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from epcli.errors import UsageError
from epcli.records import Modality
from epcli.sieve.refiner import Refiner
from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import SyncRope

ABLATIONS = ("causal", "no-text", "no-cross", "three-axes", "depth-1", "depth-2", "depth-3", "plain-states")


class Masked(Refiner):
    """The refiner for one row, of which each token sees only some others: `sees` (L, L) bool."""

    sees: Tensor

    def mask(self, embeds: Tensor, keys: Tensor) -> Tensor:
        sees = self.sees.to(embeds.device) & keys[0]
        mask = torch.zeros(sees.shape, dtype=embeds.dtype, device=embeds.device)
        return mask.masked_fill(~sees, torch.finfo(embeds.dtype).min)[None, None]


def ablated(sieve: Sieve, what: str, modality: Tensor) -> Sieve:
    """`sieve` with one of ABLATIONS, for one row whose tokens' `modality` is (L,); the weights are shared, not copied.

    Raises UsageError for another name, or a depth that the refiner does not have.
    """
    layers, config, rope = list(sieve.refiner.layers), sieve.refiner.config, sieve.rope
    kind, _, depth = what.partition("-")
    text = modality == Modality.TEXT
    same = modality[:, None] == modality[None]
    if what == "three-axes":
        return Sieve(sieve.refiner, sieve.scorer, three_axes(rope)).eval()
    if what == "plain-states":
        return Sieve(sieve.refiner, sieve.scorer, rope, reads_refined=False).eval()
    if kind == "depth" and depth.isdigit() and 0 < int(depth) < len(layers):
        return Sieve(Refiner(layers[: int(depth)], config), sieve.scorer, rope).eval()
    sees = {
        "causal": torch.ones_like(same).tril(),
        "no-text": text[:, None] | ~text[None],
        "no-cross": text[:, None] | text[None] | same,
    }.get(what)
    if sees is None:
        raise UsageError(f"{what!r} is none of {', '.join(ABLATIONS)}, or this refiner has only {len(layers)} layers")
    refiner = Masked(layers, config)
    refiner.sees = sees
    return Sieve(refiner, sieve.scorer, rope).eval()


def three_axes(rope: Any) -> SyncRope:
    """The frequencies of `rope`, of which a quarter reads time and the rest height and width, as in Qwen2.5-Omni."""
    half = len(rope.inv_freq)
    side = (half - half // 4) // 2
    plain = SyncRope(2 * half, 1.0, (half - 2 * side, side, side))
    plain.inv_freq = rope.inv_freq
    return plain
