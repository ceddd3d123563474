"""The sieve (CS2 of EchoingPixels, arXiv 2512.10324): refine all tokens together, keep the best, in order.

    1 positions   every token keeps its four-axis position in the whole prompt, before and after
    2 refine      a few bidirectional layers over sound, picture and text
    3 score       one number for every token
    4 select      the best k of one joint pool of sound and picture; text stays
    5 pass back   a factor of 1 that carries the score head's gradient
    6 gather      what stays, in original order, padded to a rectangle

The decoder then reads the refined states of the kept tokens, causally. `keep` 1.0 drops nothing but still refines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from epcli.records import REFINER_DEPTH
from epcli.sieve.refiner import Refiner
from epcli.sieve.select import Budget, ScoreHead, kept_indices, straight_through, take, top


@dataclass(frozen=True, eq=False)
class Sieved:
    """What stays of a batch: K is the most kept tokens of a row; shorter rows are padded on the left.

    Hand `embeds`, `positions` and `mask` to the decoder as inputs_embeds, position_ids and attention_mask.
    """

    embeds: Tensor  # (B, K, D) what the decoder reads: refined states of the kept tokens, 0 at padding
    positions: Tensor  # (4, B, K) int64 original positions, 0 at padding
    mask: Tensor  # (B, K) bool, True for kept tokens
    indices: Tensor  # (B, K) int64 ascending places in the unpruned row, -1 at padding
    next_positions: Tensor  # (B,) int64 position of the first generated token: largest prompt position + 1
    scores: Tensor  # (B, L) float32 of every token of the unpruned rows
    refined: Tensor  # (B, L, D) refined states of every token


class Sieve(nn.Module):
    """Refiner and score head, for the decoder whose rotary module is `rope`."""

    def __init__(self, refiner: Refiner, scorer: ScoreHead, rope: nn.Module, *, reads_refined: bool = True) -> None:
        """`reads_refined`: the decoder reads the refined states, as published; else the kept tokens as they came."""
        super().__init__()
        self.reads_refined = reads_refined
        self.refiner, self.scorer, self.rope = refiner, scorer, rope

    @classmethod
    def for_decoder(cls, decoder: Any, depth: int = REFINER_DEPTH) -> Sieve:
        """An untrained sieve: the refiner starts as the decoder's first layers. Install Sync-RoPE first."""
        weight = decoder.get_input_embeddings().weight
        scorer = ScoreHead(decoder.config.hidden_size).to(weight.device, weight.dtype)
        return cls(Refiner.copied_from(decoder, depth), scorer, decoder.rotary_emb)

    def forward(
        self,
        embeds: Tensor,
        positions: Tensor,
        is_av: Tensor,
        budget: Budget,
        *,
        valid: Tensor | None = None,
        answer: Tensor | None = None,
        candidates: Tensor | None = None,
        window_tokens: int | None = None,
    ) -> Sieved:
        """Sift a batch of prompts, each row for itself.

        Args:
            embeds: (B, L, D) text embeddings and projected tower outputs, one sequence.
            positions: (4, B, L) int64 [T, H, W, T].
            is_av: (B, L) bool, the sound and picture tokens; n of the keep ratio counts these.
            budget: how many of them stay.
            valid: (B, L) bool, False at padding. None: no padding.
            answer: (B, L) bool, the answer tokens of a training row: neither seen nor changed by the refiner.
            candidates: (B, L) bool, those of `is_av` that compete; the others are dropped. None: all of them.
            window_tokens: refine in time windows of about so many media tokens (see `time_windows`). None: all at once.
        """
        valid = torch.ones_like(is_av) if valid is None else valid
        is_av = is_av & valid
        candidates = is_av if candidates is None else candidates & is_av
        # A prompt without sound and picture is left as it is: the plain model answers it.
        keys = valid & is_av.any(-1, keepdim=True)
        if answer is not None:
            keys = keys & ~answer

        # 1 to 3: refine at the original positions, and score.
        if window_tokens is None:
            refined, scores = self.refine_and_score(embeds, positions, keys)
        else:
            windows = [
                self.refine_in_windows(embeds[i], positions[:, i], keys[i], is_av[i], window_tokens)
                for i in range(len(embeds))
            ]
            refined, scores = (torch.stack(values) for values in zip(*windows, strict=True))

        # 4: text stays; sound and picture compete for k places of one pool.
        kept = valid & ~is_av | top(scores, candidates, counts(scores, is_av, candidates, budget))

        # 5: a factor of 1, so that the loss reaches the score head.
        factor = straight_through(scores, candidates).to(refined.dtype)

        # 6: what stays, in original order.
        indices = kept_indices(kept)
        return Sieved(
            embeds=take(refined if self.reads_refined else embeds, indices) * take(factor, indices).unsqueeze(-1),
            positions=torch.stack([take(axis, indices) for axis in positions]),
            mask=indices >= 0,
            indices=indices,
            next_positions=positions.amax(0).masked_fill(~valid, -1).amax(-1) + 1,
            scores=scores,
            refined=refined,
        )

    def refine_and_score(self, embeds: Tensor, positions: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, D), (4, B, L), (B, L) -> refined states (B, L, D) and scores (B, L) float32."""
        refined = self.refiner(embeds, self.rope(embeds, positions), keys)
        return refined, self.scorer(refined)

    def refine_in_windows(
        self, embeds: Tensor, positions: Tensor, keys: Tensor, is_av: Tensor, window_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """`refine_and_score` of one row too long to attend to at once: the refiner needs the memory of one window only.

        A window holds all the text, and the sound and picture of its own time, in order, at their original positions.
        A media token's state comes from its window. A text token has a state from each window; it becomes their mean,
        weighted by the windows' shares of the softmax over all media scores, the pool in which the tokens then compete:
        the text speaks of what is likely to stay. Selection is not windowed, so a dull window may keep nothing. One
        window gives exactly the unwindowed result.

        Args:
            embeds, positions, keys, is_av: (L, D), (4, L), (L,), (L,), one row of `forward`.
            window_tokens: about how many media tokens a window holds.

        Returns:
            (L, D) refined states, (L,) float32 scores.
        """
        window_of = time_windows(positions[0], is_av, window_tokens)
        refined, scores = embeds.clone(), embeds.new_zeros(len(embeds), dtype=torch.float32)
        text_states, masses = [], []
        for window in window_of[is_av].unique():
            inside = (~is_av | (window_of == window)).nonzero().squeeze(-1)
            media = is_av[inside]
            states, marks = self.refine_and_score(embeds[None, inside], positions[:, None, inside], keys[None, inside])
            refined[inside[media]], scores[inside[media]] = states[0, media], marks[0, media]
            text_states.append(states[0, ~media])
            masses.append(marks[0, media].logsumexp(-1))
        if masses:
            weights = torch.stack(masses).softmax(-1)
            mean = torch.einsum("w,wtd->td", weights, torch.stack(text_states).float())
            refined[~is_av] = mean.to(refined.dtype)
        scores[~is_av] = self.scorer(refined[~is_av])
        return refined, scores


def counts(scores: Tensor, is_av: Tensor, candidates: Tensor, budget: Budget) -> Tensor:
    """(B,) int64: how many of each row's media tokens stay."""
    rows = zip(is_av.sum(-1).tolist(), scores.detach(), candidates, strict=True)
    return torch.tensor([budget.count(n, row[pool]) if n else 0 for n, row, pool in rows], device=scores.device)


def time_windows(time: Tensor, is_av: Tensor, window_tokens: int) -> Tensor:
    """(L,) positions on the time axis, (L,) bool -> (L,) int64 window of each media token; text gets 0.

    Windows of nearly equal token counts, at most `window_tokens` on average, cut in time: tokens of one moment stay
    together, so a window can hold more by up to the tokens of one frame, and a number can be skipped.
    """
    media = time[is_av].contiguous()
    earlier = torch.searchsorted(media.sort().values, media)  # how many media tokens come before this one's moment
    windows = -(-len(media) // window_tokens)
    return torch.zeros_like(time).masked_scatter_(is_av, earlier * windows // max(len(media), 1))
