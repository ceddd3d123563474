"""Selectors by name: what stays of a stream, through one interface.

    cs2               the trained sieve: refines all tokens together, keeps the best (EchoingPixels, arXiv 2512.10324)
    cs2-per-modality  cs2's states and scores, but a fixed share of each modality, to measure the joint pool against
    none              keeps every token as it is: the plain model
    random            drawn, by seed; a strong baseline, so always measure it
    uniform           even in time and over the picture, sound and picture in proportion
    query-aware       what the question looks at in the decoder's early layers (as FastV, arXiv 2403.06764)
    audio-guided      eventful sound buys picture tokens of its moment (in the spirit of OmniZip, arXiv 2511.14582)

The two cs2 hand the decoder refined states, the others the original embeddings, and all of them the original positions.
`select` is the way in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from epcli.compat import caching
from epcli.errors import UsageError
from epcli.records import CHUNK_S, KeptStream, Modality, TokenStream
from epcli.sieve.select import Budget, top
from epcli.sieve.sieve import Sieve

WINDOW_TOKENS = 8192  # media tokens that cs2 refines at once; more go in time windows: an hour fits a small GPU
CHUNK_TOKENS = 2048  # that query-aware runs through the early layers at once; their keys and values stay
EARLY_LAYER = 2  # query-aware reads the attention of the layer after so many, as FastV does


@dataclass(frozen=True, eq=False)
class Tools:
    """What a selector may need besides the stream."""

    decoder: Any = None  # transformers text model; query-aware
    sieve: Sieve | None = None  # cs2
    seed: int = 0  # random
    window_tokens: int = WINDOW_TOKENS  # cs2
    chunk_tokens: int = CHUNK_TOKENS  # query-aware


Selector = Callable[[TokenStream, Budget, Tools], KeptStream]


@torch.inference_mode()
def select(name: str, stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """Keep `budget` of the stream's sound and picture tokens, and all its text, in original order.

    Raises UsageError for an unknown name, a model without what the selector needs, or a budget it cannot count.
    """
    if name not in SELECTORS:
        raise UsageError(f"no selector named {name!r}; there are: {', '.join(SELECTORS)}")
    return SELECTORS[name](stream, budget, tools)


def cs2(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """The trained sieve. With a budget of everything it still refines."""
    if tools.sieve is None:
        raise UsageError("selector cs2 needs a model with a trained sieve, and this one has none; try query-aware")
    is_av = stream.modality.to(stream.embeds.device) != Modality.TEXT
    out = tools.sieve(
        stream.embeds[None], stream.positions[:, None], is_av[None], budget, window_tokens=tools.window_tokens
    )
    return KeptStream(stream, out.embeds[0], out.positions[:, 0], out.indices[0], out.scores[0])


def cs2_per_modality(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """The trained sieve with a fixed budget: sound and picture keep their own best, in proportion to their tokens.

    As many tokens stay in all as with cs2. The paper's ablation, and a measure of what competing in one pool is worth.
    """
    return narrow(cs2(stream, Budget(ratio=1.0), tools), budget, per_modality=True)


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
        for kind, count in zip(kinds, _split(budget, *kinds), strict=True):
            kept |= _best(scores, kind, count)
    else:
        kept = ~is_av | _best(scores, is_av, budget.count(int(is_av.sum()), scores[is_av]))
    indices = kept.nonzero().squeeze(-1)
    return KeptStream(stream, whole.embeds[indices], whole.positions[:, indices], indices, scores)


def none(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """Everything, whatever the budget."""
    return _keep(stream, torch.ones(len(stream.modality), dtype=torch.bool, device=stream.modality.device), None)


def random(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """Each set of k tokens equally likely; the same seed draws the same set on every device."""
    draws = torch.rand(len(stream.modality), generator=torch.Generator().manual_seed(tools.seed))
    is_av = stream.modality.cpu() != Modality.TEXT
    return _keep(stream, ~is_av | _best(draws, is_av, budget.count(int(is_av.sum()))), None)


def uniform(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """Sound tokens at even steps; picture tokens spread evenly over the frames and, within them, over the grid."""
    modality = stream.modality.cpu()
    kept = modality == Modality.TEXT
    picture, sound = (modality == kind for kind in (Modality.VIDEO, Modality.AUDIO))
    for_picture, for_sound = _split(budget, picture, sound)
    kept[sound] = _even(int(sound.sum()), for_sound)
    if for_picture:
        frame, row, column = stream.cells.cpu()[picture].long().unbind(-1)
        # Each frame's cells in an order of which every beginning is spread out: an additive recurrence in two
        # dimensions, 1/p and 1/p^2 with p^3 = p + 1 (plastic number), shifted from frame to frame by the golden ratio.
        order = (row * 0.7548776662 + column * 0.5698402910 + frame * 0.6180339887).frac()
        group = frame.unique(return_inverse=True)[1]
        ends = (group.bincount().cumsum(0) * for_picture / len(group)).round().long()  # places up to each frame's end
        kept[picture] = _best_of_groups(-order, group, torch.diff(ends, prepend=torch.zeros(1, dtype=torch.int64)))
    return _keep(stream, kept, None)


def query_aware(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """Rank media tokens by the attention that the text after them pays them in an early decoder layer.

    Runs EARLY_LAYER layers on the stream and takes, in the next, the softmax of those queries over all tokens, meant
    over heads and queries. Needs a decoder with q_proj and k_proj, and text after the clip.
    """
    decoder = tools.decoder
    if decoder is None or not hasattr(decoder.layers[0].self_attn, "q_proj"):
        raise UsageError("selector query-aware needs a decoder with q_proj and k_proj; choose another selector")
    device = stream.embeds.device
    is_av = stream.modality.to(device) != Modality.TEXT
    if not is_av.any():
        return none(stream, budget, tools)
    first = int(is_av.nonzero().max()) + 1
    if first == len(is_av):
        raise UsageError("selector query-aware needs the question after the clip; choose another selector")
    scores = _early_attention(decoder, stream, first, tools.chunk_tokens)
    pool = is_av.nonzero().squeeze(-1)
    # Logarithms, so that the softmax which `auto` takes over scores gives the attention shares back.
    logs = torch.full_like(scores, -torch.inf)
    logs[pool] = scores[pool].clamp(min=torch.finfo(scores.dtype).tiny).log()
    kept = ~is_av | _best(logs, is_av, budget.count(len(pool), logs[pool]))
    return _keep(stream, kept, logs)


def audio_guided(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """Sound decides where picture tokens are spent.

    1. A sound token is as salient as it differs from the mean of the clip's sound (1 - cosine of the embeddings); the
       most salient stay.
    2. Each chunk of 2 s gets picture places in proportion to half its picture tokens and half its sound's salience.
       Without sound the clip is one chunk.
    3. In a chunk, the picture tokens stay that differ most from the same cell one frame before; of the clip's first
       frame, those that differ most from its mean.

    OmniZip takes the salience from the audio tower's attention, and merges tokens. Here only the stream is known, and
    tokens are only selected.
    """
    modality, start_s = stream.modality.cpu(), stream.spans_s[:, 0].cpu().nan_to_num()
    kept = modality == Modality.TEXT
    picture, sound = (modality == kind for kind in (Modality.VIDEO, Modality.AUDIO))
    for_picture, for_sound = _split(budget, picture, sound)
    unit = F.normalize(stream.embeds.float(), dim=-1).cpu()
    chunk = (start_s / CHUNK_S).long() * int(sound.any())
    salience = torch.zeros(0)
    if sound.any():
        salience = 1 - unit[sound] @ F.normalize(unit[sound].mean(0), dim=0)
        kept[sound] = _best(salience, torch.ones_like(salience, dtype=torch.bool), for_sound)
    if for_picture:
        sizes = chunk[picture].bincount(minlength=int(chunk.max()) + 1)
        heard = chunk[sound].bincount(salience, minlength=len(sizes)).clamp(min=0)
        weights = sizes / sizes.sum() + heard / heard.sum().clamp(min=1e-9)
        change = _change(unit[picture], stream.cells.cpu()[picture].long())
        kept[picture] = _best_of_groups(change, chunk[picture], _shares(weights, sizes, for_picture))
    return _keep(stream, kept, None)


SELECTORS: dict[str, Selector] = {
    "cs2": cs2,
    "cs2-per-modality": cs2_per_modality,
    "none": none,
    "random": random,
    "uniform": uniform,
    "query-aware": query_aware,
    "audio-guided": audio_guided,
}


def _keep(stream: TokenStream, kept: Tensor, scores: Tensor | None) -> KeptStream:
    indices = kept.to(stream.embeds.device).nonzero().squeeze(-1)
    return KeptStream(stream, stream.embeds[indices], stream.positions[:, indices], indices, scores)


def _best(scores: Tensor, candidates: Tensor, count: int) -> Tensor:
    """`top` of one row: (L,), (L,) bool -> (L,) bool."""
    return top(scores[None], candidates[None], torch.tensor([count], device=scores.device))[0]


def _best_of_groups(scores: Tensor, group: Tensor, counts: Tensor) -> Tensor:
    """(n,) scores, (n,) group numbers, (G,) counts -> (n,) bool: the best of each group, ties to the earlier."""
    best_first = scores.argsort(descending=True, stable=True)
    order = best_first[group[best_first].argsort(stable=True)]  # group after group, the best first in each
    sizes = group.bincount(minlength=len(counts))
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[group[order]]
    return rank < counts[group]


def _split(budget: Budget, picture: Tensor, sound: Tensor) -> tuple[int, int]:
    """The budget's places for picture and for sound, in proportion to their tokens."""
    sizes = torch.stack([picture.sum(), sound.sum()])
    total = int(sizes.sum())
    places = _shares(sizes, sizes, budget.count(total) if total else 0)
    return int(places[0]), int(places[1])


def _shares(weights: Tensor, sizes: Tensor, total: int) -> Tensor:
    """(G,) int64: `total` places divided by weight, to none more than its size (Sainte-Lague's highest averages)."""
    group = torch.arange(len(sizes)).repeat_interleave(sizes)
    seat = torch.arange(len(group)) - (sizes.cumsum(0) - sizes)[group]
    claims = weights[group] / (2 * seat + 1)
    return group[claims.argsort(descending=True, stable=True)[:total]].bincount(minlength=len(sizes))


def _even(n: int, count: int) -> Tensor:
    """(n,) bool with `count` True at even steps."""
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[((torch.arange(count) + 0.5) * n / max(count, 1)).long()] = True
    return chosen


def _change(unit: Tensor, cells: Tensor) -> Tensor:
    """(n, D) unit vectors, (n, 3) frame, row, column -> (n,) 1 - cosine to the same cell one frame before."""
    frame, row, column = cells.unbind(-1)
    frame = frame.unique(return_inverse=True)[1]
    place = row * (int(column.max()) + 1) + column
    table = unit.new_zeros(int(frame.max()) + 1, int(place.max()) + 1, unit.shape[-1])
    table[frame, place] = unit
    before = torch.cat([F.normalize(table[0].mean(0), dim=0).expand_as(table[:1]), table[:-1]])
    return 1 - (unit * before[frame, place]).sum(-1)


def _early_attention(decoder: Any, stream: TokenStream, first: int, chunk: int) -> Tensor:
    """(L,) float32 attention of the tokens from `first` on, in layer EARLY_LAYER, meant over heads and those tokens.

    `chunk` tokens at a time go through the layers before it, with a cache of keys and values as in generation: the same
    states, and memory that grows with the stream by that cache only.
    """
    layer, cache = decoder.layers[EARLY_LAYER], DynamicCache(config=decoder.config)
    embeds = stream.embeds[None]
    cos, sin = decoder.rotary_emb(embeds, stream.positions[:, None])
    places = torch.arange(embeds.shape[1], device=embeds.device)
    keys, queries = [], []
    for begin in range(0, len(places), chunk):
        part = slice(begin, begin + chunk)
        hidden, end = embeds[:, part], min(begin + chunk, len(places))
        mask = None if begin == 0 else (places[:end] <= places[part, None])[None, None]  # none at all: causal
        for early in decoder.layers[:EARLY_LAYER]:
            hidden = early(
                hidden,
                attention_mask=mask,
                position_embeddings=(cos[:, part], sin[:, part]),
                **caching(early, cache),
            )
        normed = layer.input_layernorm(hidden)
        keys.append(layer.self_attn.k_proj(normed))
        queries.append(layer.self_attn.q_proj(normed[:, max(first - begin, 0) :]))
    return _attention(layer.self_attn, torch.cat(queries, 1), torch.cat(keys, 1), cos, sin, places >= first)


def _attention(module: Any, queries: Tensor, keys: Tensor, cos: Tensor, sin: Tensor, asking: Tensor) -> Tensor:
    """(1, T, H d) queries of the `asking` tokens, (1, L, K d) keys -> (L,) float32 attention, the mean of all queries.

    One key head at a time, in float32: a long stream's keys are not repeated for all heads at once.
    """

    def heads(x: Tensor) -> Tensor:
        return x[0].view(x.shape[1], -1, module.head_dim).transpose(0, 1)

    def rotate(x: Tensor, which: Tensor | slice) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * cos[0, which].float() + torch.cat([-b, a], dim=-1) * sin[0, which].float()

    groups = heads(queries).split(module.num_key_value_groups)  # the query heads of each key head
    places = torch.arange(keys.shape[1], device=keys.device)
    later = places > places[asking, None]
    total = torch.zeros(keys.shape[1], device=keys.device)
    for group, key in zip(groups, heads(keys), strict=True):
        turned = rotate(key.float(), slice(None))
        for head in group:
            logits = rotate(head.float(), asking) @ turned.T * module.scaling  # (T, L)
            total += logits.masked_fill(later, -torch.inf).softmax(-1).sum(0)
    return total / (len(groups) * module.num_key_value_groups * queries.shape[1])
