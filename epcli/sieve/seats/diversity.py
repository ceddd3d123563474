"""Stage 1 of SEATS: in each window, the tokens that differ most from each other."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = 1e6  # of the towers' attention, which is a small number
TOKENS_AT_ONCE = 8192  # of several windows: so memory does not grow with the clip


def reference_counts(sizes: Tensor, share: float) -> Tensor:
    """Places of each window, rounded for itself, at least one: the published rule. The product is taken in double."""
    return torch.tensor([max(1, min(size, round(share * size))) for size in sizes.tolist()], dtype=torch.int64)


def keep_diverse(
    embeds: Tensor, attention: Tensor, sizes: Tensor, counts: Tensor, *, reference: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """The most diverse tokens of each window.

    Args:
        embeds: (n, D), window after window.
        attention: (n,) that the tower paid each token.
        sizes, counts: (W,) int64 tokens of each window, and how many of them stay.
        reference: leave distances that rounding made negative as they are.

    Returns:
        (n,) bool on the CPU, and for each window that is not kept whole, in order, its picks in the order made,
        counted over all n.
    """
    kept = torch.zeros(len(embeds), dtype=torch.bool)
    starts = (sizes.cumsum(0) - sizes).tolist()
    picks: dict[int, Tensor] = {}
    alike: dict[tuple[int, int], list[int]] = {}
    for window, (size, count) in enumerate(zip(sizes.tolist(), counts.tolist(), strict=True)):
        if count == size:
            kept[starts[window] : starts[window] + size] = True
        elif count:
            alike.setdefault((size, count), []).append(window)
    for (size, count), windows in alike.items():
        together = max(TOKENS_AT_ONCE // size, 1)
        for first in range(0, len(windows), together):
            some = windows[first : first + together]
            places = torch.tensor([starts[window] for window in some])[:, None] + torch.arange(size)
            device = embeds.device
            found = pick(embeds[places.to(device)], attention[places.to(attention.device)].to(device), count, reference)
            chosen = places.gather(1, found.cpu())
            kept[chosen.flatten()] = True
            picks |= dict(zip(some, chosen, strict=True))
    return kept, [picks[window] for window in sorted(picks)]


def pick(embeds: Tensor, attention: Tensor, count: int, reference: bool = False) -> Tensor:
    """`count` tokens of each window, one after the other: always the one farthest from all that are picked.

    The distance from token i to j is 1 - cosine, times the attention of j. The first is the token whose nearest
    neighbour is farthest. Among equals the earlier one is picked.

    Args:
        embeds: (W, n, D), n > 1.
        attention: (W, n).

    Returns:
        (W, count) int64 in the order picked.
    """
    x = embeds.float()
    unit = x / (x.norm(dim=-1, keepdim=True) + 1e-8)
    distance = (1 - unit @ unit.transpose(1, 2)) * (attention.float() * SCALE).unsqueeze(1)
    if not reference:
        distance = distance.clamp(min=0)
    gone = -1.0 if reference else -torch.inf
    rows = torch.arange(len(x), device=x.device)
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    chosen = distance.masked_fill(itself, torch.inf).amin(1).argmax(-1)
    order = [chosen]
    nearest = distance[rows, chosen].clone()
    nearest[rows, chosen] = gone
    for _ in range(count - 1):
        chosen = nearest.argmax(-1)
        order.append(chosen)
        nearest = torch.minimum(nearest, distance[rows, chosen])
        nearest[rows, chosen] = gone
    return torch.stack(order, 1)
