"""How many tokens are left after each layer, so that their mean over all layers is the share asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

PUBLISHED_LAYERS = 28  # Qwen2.5-Omni-7B: tokens leave after layers 16, 18, 20, and all media before layer 24
PUBLISHED_DROPS, PUBLISHED_LATE = (16, 18, 20), 24
# Published shares (video, sound), mean over the layers, at nominally 10, 15, 25 and 35 % of all media tokens.
TARGETS = {"r10": (0.06, 0.35), "r15": (0.10, 0.45), "r25": (0.20, 0.55), "r35": (0.30, 0.65)}
SURPLUS = 1.4  # share that enters the decoder, over the mean share


@dataclass(frozen=True)
class Schedule:
    """Shares of video and of sound tokens."""

    entering: tuple[float, float]
    drops: tuple[int, ...]  # layers, from 1, after which some leave; empty: what enters stays to the end
    ratios: tuple[tuple[float, ...], tuple[float, ...]]  # of video and sound: share that stays at each drop
    last: int  # the last layer that sees media tokens


def layers_of(depth: int) -> tuple[tuple[int, ...], int]:
    """Drop layers, and the last layer with media, of a decoder of `depth` layers; scaled from the published 28.

    ([16, 18, 20], 23) at 28. Only that depth is published. No drop layers if the decoder is too shallow for them.
    """
    drops = tuple(round(depth / PUBLISHED_LAYERS * layer) for layer in PUBLISHED_DROPS)
    last = round(depth / PUBLISHED_LAYERS * PUBLISHED_LATE) - 1
    rising = all(a < b for a, b in pairwise((0, *drops, last))) and last < depth
    return (drops, last) if rising else ((), depth)


def layers_note(depth: int) -> list[str]:
    """What to tell whoever reads an answer: that the layers of this depth are nobody's published choice."""
    drops, last = layers_of(depth)
    if depth == PUBLISHED_LAYERS or not drops:
        return []
    layers = ", ".join(map(str, drops))
    return [
        f"seats drops tokens after layers {layers} and {last} of {depth}: scaled from the published ones of "
        f"{PUBLISHED_LAYERS} layers; for {depth} none are published"
    ]


def step_ratios(depth: int, drops: Sequence[int], last: int, target: float, entering: float) -> tuple[float, ...]:
    """Share that stays at each drop, so that `entering` at first gives `target` as the mean over `depth` layers.

    What leaves grows by a factor e from drop to drop.
    """
    weights = [math.exp(i) for i in range(len(drops))]
    weights = [weight / sum(weights) for weight in weights]
    spare = sum(weight * (last - layer) for weight, layer in zip(weights, drops, strict=True))
    factor = min(max((last - depth * target / entering) / spare, 0.0), 1.0) if entering else 0.0
    left = [1.0]
    for weight in weights:
        left.append(left[-1] - factor * weight)
    return tuple(round(after / before, 4) if before > 1e-12 else 0.0 for before, after in pairwise(left))


def schedule_of(depth: int, targets: tuple[float, float], *, reference: bool = False) -> Schedule:
    """For mean shares of video and sound over all layers.

    `reference`: entering shares over 1 are left as they are.
    """
    drops, last = layers_of(depth)
    if not drops:
        return Schedule(targets, (), ((), ()), depth)
    entering = [SURPLUS * target for target in targets]
    if not reference:
        entering = [min(share, 1.0) for share in entering]
    ratios = [step_ratios(depth, drops, last, t, e) for t, e in zip(targets, entering, strict=True)]
    return Schedule((entering[0], entering[1]), drops, (ratios[0], ratios[1]), last)


def schedule_for_mean(depth: int, share: float, video: int, sound: int) -> Schedule:
    """For one mean share of all media tokens, of a clip with so many video and sound tokens.

    A share over what media tokens can reach before they all leave is kept from the first layer to the last, without
    drops.
    """
    drops, last = layers_of(depth)
    if not drops or share > last / depth or not video + sound:
        return Schedule((share, share), (), ((), ()), depth)
    return schedule_of(depth, divided(share, video, sound, last / depth))


def divided(share: float, video: int, sound: int, most: float = 1.0) -> tuple[float, float]:
    """Shares of so many video and sound tokens that make one mean share of both, up to `most`, which both reach there.

    Those of the published settings, in between by straight lines. At least one token, or ZeroDivisionError.
    """
    points = [(0.0, 0.0), *sorted(TARGETS.values()), (most, most)]
    for (v0, a0), (v1, a1) in pairwise(points):
        low, high = (v * video + a * sound for v, a in ((v0, a0), (v1, a1)))
        wanted = share * (video + sound)
        if wanted <= high or (v1, a1) == points[-1]:
            part = (wanted - low) / (high - low)
            return v0 + part * (v1 - v0), a0 + part * (a1 - a0)
    raise AssertionError("the last point covers every share")
