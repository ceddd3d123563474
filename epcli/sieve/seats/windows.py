"""Stage 2 of SEATS: after a layer, windows and senses share the places by what the last text token attends to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from epcli.records import Modality
from epcli.sieve.drops import LayerOutput

TEMPERATURE = 0.1  # of the softmax over windows


@dataclass(frozen=True, eq=False)
class Step:
    """One drop of n tokens, with what it was decided by. The tables are None where windows are not told apart."""

    kept: Tensor  # (m,) int64 ascending, of n
    scores: Tensor  # (n,) attention of the last text token
    totals: tuple[int, int, int, int]  # video and sound tokens left, video and sound tokens to keep
    sizes: Tensor | None = None  # (2, W) video and sound tokens of each window
    means: Tensor | None = None  # (2, W) their mean score
    weights: Tensor | None = None  # (2, W) softmax over the windows
    raw: Tensor | None = None  # (W,) places of each window before rounding
    budget: Tensor | None = None  # (W,) places of each window
    budgets: Tensor | None = None  # (2, W) places of video and sound in each window


def attention_of_last(found: LayerOutput, query: int) -> Tensor:
    """(n,) attention of token `query` to all n in a layer's own heads, taken from the layer's output; no mask.

    The layer's norm and its q and k products are applied to what the layer itself made. Softmax in the model's dtype,
    the mean over query heads.
    """
    attn = found.layer.self_attn
    normed = found.layer.input_layernorm(found.hidden)
    cos, sin = found.rotation

    def turned(x: Tensor, which: slice) -> Tensor:
        heads = x.view(len(x), -1, attn.head_dim).transpose(0, 1)  # (heads, tokens, size)
        a, b = heads.chunk(2, dim=-1)
        return heads * cos[which] + torch.cat([-b, a], dim=-1) * sin[which]

    one = slice(query, query + 1)
    queries = turned(attn.q_proj(normed[one]), one)  # (H, 1, d)
    keys = turned(attn.k_proj(normed), slice(None))  # (G, n, d)
    groups = queries.view(len(keys), -1, attn.head_dim)  # (G, H / G, d): the query heads of each key head
    logits = groups @ keys.transpose(1, 2) * attn.scaling
    return logits.softmax(-1).mean((0, 1))


def runs(kinds: Tensor) -> Tensor:
    """(n,) modality -> (n,) int64: the j-th run of adjacent video tokens is window j, and so the j-th of sound."""
    window = torch.zeros(len(kinds), dtype=torch.int64)
    for kind in (Modality.VIDEO, Modality.AUDIO):
        here = kinds == kind
        begins = here & ~torch.cat([torch.zeros(1, dtype=torch.bool), here[:-1]])
        window[here] = begins.cumsum(0)[here] - 1
    return window


def split_step(scores: Tensor, kinds: Tensor, windows: Tensor, ratios: tuple[float, float]) -> Step:
    """Which of n tokens stay: all text, and the best of each window and sense.

    Args:
        scores: (n,) attention of the last text token.
        kinds: (n,) modality.
        windows: (n,) int64 window of each media token.
        ratios: share of video and of sound that stays.
    """
    video, sound = (kinds == kind for kind in (Modality.VIDEO, Modality.AUDIO))
    left = int(video.sum()), int(sound.sum())
    keep_v, keep_a = (max(1, round(r * n)) if n else 0 for r, n in zip(ratios, left, strict=True))
    totals = (*left, keep_v, keep_a)
    kept = kinds == Modality.TEXT
    numbers, window = torch.unique(windows[video | sound], return_inverse=True)
    if len(numbers) < 2 or not all(left):
        for which, count in ((video, keep_v), (sound, keep_a)):
            _keep_best(kept, scores, which, count)
        return Step(kept.nonzero().squeeze(-1), scores, totals)
    place = torch.zeros_like(windows)
    place[video | sound] = window
    sizes = torch.stack([place[which].bincount(minlength=len(numbers)) for which in (video, sound)])
    sums = [place[which].bincount(scores[which].float(), minlength=len(numbers)) for which in (video, sound)]
    means = (torch.stack(sums) / sizes.clamp(min=1)).float()
    weights = (means / TEMPERATURE).softmax(-1)
    raw = weights.sum(0) / 2 * (keep_v + keep_a)
    budget = window_budgets(raw, sizes.sum(0), keep_v + keep_a)
    budgets = sense_budgets(budget, sizes, weights, (keep_v, keep_a))
    for which, counts in zip((video, sound), budgets.tolist(), strict=True):
        for number, count in enumerate(counts):
            _keep_best(kept, scores, which & (place == number), count)
    return Step(kept.nonzero().squeeze(-1), scores, totals, sizes, means, weights, raw, budget, budgets)


def window_budgets(raw: Tensor, sizes: Tensor, total: int) -> Tensor:
    """(W,) float32 wanted places -> (W,) int64 that sum to `total` if windows of such sizes can hold them.

    Each gets at least one and at most its size. What is too many is taken from the first largest, what is missing is
    given to the first smallest with room.
    """
    budget = torch.minimum(raw.round().long().clamp(min=1), sizes)
    while int(budget.sum()) > total and (budget > 1).any():
        budget[budget.masked_fill(budget <= 1, -1).argmax()] -= 1
    most = int(sizes.max()) + 1
    while int(budget.sum()) < total and (budget < sizes).any():
        budget[budget.masked_fill(budget >= sizes, most).argmin()] += 1
    return budget


def sense_budgets(budget: Tensor, sizes: Tensor, weights: Tensor, totals: tuple[int, int]) -> Tensor:
    """(W,) places, (2, W) sizes and weights, places of video and sound in all -> (2, W) int64 places.

    A window with tokens of both senses keeps one of each at least, even if that is one more than its places.
    """
    claims = weights * torch.tensor(totals, dtype=torch.float32)[:, None]
    wanted = (budget * (claims[0] / (claims.sum(0) + 1e-12))).round().long().tolist()
    found = []
    for b, v, c_v, c_a in zip(budget.tolist(), wanted, *sizes.tolist(), strict=True):
        v = min(v, c_v)
        a = min(b - v, c_a)
        more = min(b - v - a, c_v - v)
        v += more
        a += min(b - v - a, c_a - a)
        if c_v > 0 and v < 1:
            v = 1
            if a > 1:
                a = max(1, min(c_a, b - 1))
        if c_a > 0 and a < 1:
            a = 1
            if v > 1:
                v = max(1, min(c_v, b - 1))
        found.append((v, a))
    return torch.tensor(found, dtype=torch.int64).T


def _keep_best(kept: Tensor, scores: Tensor, which: Tensor, count: int) -> None:
    """Mark the best `count` tokens of `which`; of equal ones the earlier."""
    places = which.nonzero().squeeze(-1)
    kept[places[scores[places].argsort(descending=True, stable=True)[:count]]] = True
