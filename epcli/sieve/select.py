"""Scoring tokens, and how many and which of them stay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from epcli.errors import UsageError
from epcli.records import KeptStream, Modality, TokenStream

AUTO_MASS = 0.9  # share of the score mass that `keep: auto` keeps


class ScoreHead(nn.Module):
    """score = Linear(D, 1)(SiLU(Linear(D, D)(RMSNorm(h)))), both with bias. Names as in the reference's checkpoints."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln = nn.RMSNorm(width, eps=1e-6)  # whatever the language model's own eps is
        self.score_head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, D) -> (B, L) float32. The last product is taken in float32: in bfloat16 many scores would be equal.

        The others are taken in the head's own dtype, under autocast too.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            inner = self.score_head[:2](self.ln(hidden.to(self.ln.weight.dtype)))
            last = cast(nn.Linear, self.score_head[2])
            return F.linear(inner.float(), last.weight.float(), last.bias.float()).squeeze(-1)


def keep_count(n: int, ratio: float) -> int:
    """How many of n tokens stay at a keep ratio: min(n, max(1, ceil(n * ratio))).

    The product is taken in double precision, as the reference does: 100 * 0.07 is 7.000000000000001 there and keeps 8.
    """
    return min(n, max(1, math.ceil(n * ratio)))


@dataclass(frozen=True)
class Budget:
    """How many sound and picture tokens stay. Exactly one of the first three is given, else UsageError."""

    ratio: float | None = None  # share of them, over 0 up to 1
    tokens: int | None = None  # at most so many
    mass: float | None = None  # as few as hold this share of the softmax over their scores: `keep: auto`
    least: int = 0  # where `ratio` is fewer tokens than this, so many, if there are

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.ratio, self.tokens, self.mass)) != 1:
            raise UsageError("a budget is one of: a keep ratio, a number of tokens, auto")
        if not all(0 < share <= 1 for share in (self.ratio, self.mass) if share is not None):
            raise UsageError(f"keep: {self.ratio or self.mass or 0:g} is not a share over 0 up to 1")
        if self.tokens is not None and self.tokens < 1:
            raise UsageError(f"budget: {self.tokens} is not a number of tokens from 1 up")

    @classmethod
    def of(cls, keep: float | str, tokens: int | None = None) -> Budget:
        """From the settings `keep` (a share, or "auto") and `budget` (a number of tokens, which goes first)."""
        if tokens is not None:
            return cls(tokens=tokens)
        return cls(mass=AUTO_MASS) if keep == "auto" else cls(ratio=float(keep))

    def count(self, n: int, scores: Tensor | None = None) -> int:
        """How many of `n` tokens stay. `scores`: (C,) of those that compete; only `mass` needs them."""
        if self.ratio is not None:
            return max(keep_count(n, self.ratio), min(n, self.least))
        if self.tokens is not None:
            return min(n, self.tokens)
        if scores is None:
            from epcli.sieve.selectors import SELECTORS

            names = ", ".join(name for name, selector in SELECTORS.items() if selector.scored_by)
            raise UsageError(f"keep auto needs a selector that scores tokens: {names}; choose one, or give a share")
        sums = scores.double().softmax(-1).sort(descending=True).values.cumsum(-1)
        return min(n, int((sums < cast(float, self.mass) - 1e-9).sum()) + 1)  # sums may fall short by rounding


def top(scores: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    """The best of each row's one joint pool: sound and picture compete for the same places.

    Args:
        scores: (B, L) float32.
        candidates: (B, L) bool, the tokens that compete.
        counts: (B,) int64, how many stay; more than there are candidates keeps all of them.

    Returns:
        (B, L) bool. Among equal scores the earlier token stays.
    """
    order = scores.masked_fill(~candidates, -math.inf).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, places)
    return candidates & (rank < counts.unsqueeze(-1))


def straight_through(scores: Tensor, candidates: Tensor) -> Tensor:
    """The factor hard - soft.detach() + soft of a kept token, for every token: (B, L) float32.

    A kept token's hard choice is 1, so the factor's value is 1; its gradient is that of soft, the softmax of the row's
    candidate scores. It is the only path by which the score head learns. Tokens that do not compete get a plain 1.
    """
    lowest = torch.finfo(scores.dtype).min  # not -inf: a row without candidates must not become NaN
    soft = scores.masked_fill(~candidates, lowest).softmax(-1)
    return torch.where(candidates, 1 - soft.detach() + soft, torch.ones_like(soft))


def kept_indices(kept: Tensor, *, pad: str = "left") -> Tensor:
    """(B, L) bool -> (B, K) int64: each row's kept places, ascending; -1 fills rows with fewer than K, the most kept.

    `pad`: "left" for a decoder that generates (every row ends in its last token), "right" as the reference does it.
    """
    width = int(kept.sum(-1).max())
    if pad == "right":
        order = (~kept).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]
    else:
        order = kept.to(torch.uint8).argsort(dim=-1, stable=True)[:, kept.shape[-1] - width :]
    return torch.where(kept.gather(-1, order), order, -1)


def take(values: Tensor, indices: Tensor, fill: float = 0) -> Tensor:
    """Rows of (B, L, ...) at (B, K) indices -> (B, K, ...); `fill` where the index is -1."""
    there = indices >= 0
    rows = torch.arange(indices.shape[0], device=indices.device).unsqueeze(-1)
    picked = values[rows, indices.clamp(min=0)]
    return torch.where(there.view(*there.shape, *[1] * (picked.ndim - 2)), picked, torch.as_tensor(fill).to(picked))


def keep_only(stream: TokenStream, kept: Tensor, scores: Tensor | None) -> KeptStream:
    """What (L,) bool `kept` leaves of a stream, its embeddings as they are."""
    indices = kept.to(stream.embeds.device).nonzero().squeeze(-1)
    return KeptStream(stream, stream.embeds[indices], stream.positions[:, indices], indices, scores)


def narrow(whole: KeptStream, budget: Budget, *, per_modality: bool = False) -> KeptStream:
    """What a selector that scores keeps at a budget, from what it kept at a ratio of 1: the same as selecting anew.

    `per_modality`: the budget is divided in proportion to the tokens of sound and picture, instead of one joint pool.
    """
    assert whole.scores is not None, "the selector does not score"
    stream, scores = whole.stream, whole.scores
    modality = stream.modality.to(scores.device)
    is_av = modality != Modality.TEXT
    if per_modality:
        kinds = (modality == Modality.VIDEO, modality == Modality.AUDIO)
        kept = ~is_av
        for kind, count in zip(kinds, split_by_size(budget, *kinds), strict=True):
            kept |= best(scores, kind, count)
    else:
        kept = ~is_av | best(scores, is_av, budget.count(int(is_av.sum()), scores[is_av]))
    indices = kept.nonzero().squeeze(-1)
    return KeptStream(stream, whole.embeds[indices], whole.positions[:, indices], indices, scores)


def best(scores: Tensor, candidates: Tensor, count: int) -> Tensor:
    """`top` of one row: (L,), (L,) bool -> (L,) bool."""
    return top(scores[None], candidates[None], torch.tensor([count], device=scores.device))[0]


def best_of_groups(scores: Tensor, group: Tensor, counts: Tensor) -> Tensor:
    """(n,) scores, (n,) group numbers, (G,) counts -> (n,) bool: the best of each group, ties to the earlier."""
    best_first = scores.argsort(descending=True, stable=True)
    order = best_first[group[best_first].argsort(stable=True)]  # group after group, the best first in each
    sizes = group.bincount(minlength=len(counts))
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[group[order]]
    return rank < counts[group]


def split_by_size(budget: Budget, picture: Tensor, sound: Tensor) -> tuple[int, int]:
    """The budget's places for picture and for sound, in proportion to their tokens."""
    sizes = torch.stack([picture.sum(), sound.sum()])
    total = int(sizes.sum())
    places = apportion(sizes, sizes, budget.count(total) if total else 0)
    return int(places[0]), int(places[1])


def split_as_published(budget: Budget, picture: Tensor, sound: Tensor) -> tuple[int, int]:
    """The budget's places for picture and for sound, whose larger share is that of SEATS' published settings."""
    from epcli.sieve.seats.schedule import divided

    pictures, sounds = int(picture.sum()), int(sound.sum())
    if not pictures + sounds:
        return 0, 0
    total = budget.count(pictures + sounds)
    for_sound = min(round(divided(total / (pictures + sounds), pictures, sounds)[1] * sounds), total)
    for_picture = min(total - for_sound, pictures)
    return for_picture, total - for_picture


def apportion(weights: Tensor, sizes: Tensor, total: int) -> Tensor:
    """(G,) int64: `total` places divided by weight, to none more than its size (Sainte-Lague's highest averages)."""
    group = torch.arange(len(sizes)).repeat_interleave(sizes)
    seat = torch.arange(len(group)) - (sizes.cumsum(0) - sizes)[group]
    claims = weights[group] / (2 * seat + 1)
    return group[claims.argsort(descending=True, stable=True)[:total]].bincount(minlength=len(sizes))


def even_steps(n: int, count: int) -> Tensor:
    """(n,) bool with `count` True at even steps."""
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[((torch.arange(count) + 0.5) * n / max(count, 1)).long()] = True
    return chosen
