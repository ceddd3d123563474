"""Dropping tokens inside the decoder: what a selector plans, and what its rule is shown when the time comes.

A plan is a list of drops, each "after layer i, these stay". Which ones stay is often known only then, from the layer's
output, so a drop carries a rule. `epcli.session.generate` executes it during prefill. Positions are never renumbered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """What a decoder layer made of the n tokens that reached it, before any leaves."""

    layer: Any  # the transformers decoder layer
    hidden: Tensor  # (n, D)
    rotation: tuple[Tensor, Tensor]  # cos and sin, (n, head size) each, at the tokens' own positions
    left: Tensor  # (n,) int64 ascending: places in the kept stream


@dataclass(frozen=True, eq=False)
class Drop:
    """Tokens leave after a layer."""

    after: int  # decoder layer, counted from 1, never the last
    rule: Callable[[LayerOutput], Tensor]  # -> (m,) int64 ascending: which of the n tokens stay
