"""Every choice of `ep train` with its default. Imports no torch: the flags are made from these."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from epcli.records import REFINER_DEPTH

METHODS = ("lora", "qlora", "full")
# Peak learning rates of the decoder. A low-rank change takes far larger ones than a weight itself.
LORA_LR, FULL_LR = 3e-4, 1e-5


@dataclass(frozen=True)
class Order:
    """What is to be trained, on what, into which folder."""

    data: Path
    out: Path = Path("runs/own")
    media: Path | None = None  # folder of the media; None: that of `data`
    held_out: Path | None = None
    method: str = "lora"
    lr: float | None = None  # None: the method's
    resume: bool = False
    gradient_checkpointing: bool = True


@dataclass(frozen=True)
class TrainedParts:
    """What is trained, and how freely. Written with the result."""

    sieve: bool = True
    depth: int = REFINER_DEPTH
    refiner_rank: int = 32  # 0: in full
    refiner_gain: float = 0.0  # of what a refiner layer adds, at the start; 1 is the decoder's own layer
    lora_rank: int = 16  # of the decoder


@dataclass(frozen=True)
class SieveRecipe:
    """How to train. Learning rates are peaks of one cosine over the run; a rate of 0 freezes that group."""

    minutes: float = 30.0  # of training; evaluation and loading are not counted
    steps: int | None = None  # optimizer steps; if given, `minutes` does not count
    items: int = 8  # questions a step, at least: gradients are accumulated over them, one by one
    keep: tuple[float, float] = (0.02, 1.0)  # the range from which each item draws its ratio, log-uniform
    plain: float = 0.2  # share of items that go past the sieve, so that the other selectors stay good
    plain_with: tuple[str, ...] = ("random", "uniform", "none")  # one of these thins such an item
    lr: dict[str, float] = field(
        default_factory=lambda: {"adapter": 2e-4, "decoder": LORA_LR, "refiner": 1e-3, "scorer": 1e-3}
    )
    lr_warmup_steps: int = 20
    relevance_any: float = 0.0  # weight of -log(score mass on all relevant tokens together)
    relevance_all: float = 0.0  # weight of the mean -log(score share) over relevant tokens
    relevance_only: float = 0.0  # first share of the run in which only refiner and score head run and learn
    anchor: float = 0.0  # meanwhile, weight of how far the refiner moves the states that the decoder is to read
    distil: float = 0.0  # weight of KL(all tokens || kept tokens) over the answer; a pass more for each item
    clip_norm: float = 1.0
    weight_decay: float = 0.01
    checkpoint_s: float = 120.0
    evaluate_s: float = 600.0
    evaluate_items: int = 60
    evaluate_keep: tuple[float, ...] = (0.05, 0.1, 0.2, 1.0)
    seed: int = 0


def rates(lr: float | None, method: str, parts: TrainedParts) -> dict[str, float]:
    """Peak learning rates by group; `lr` is that of the decoder."""
    if method == "full":
        base = lr or FULL_LR
        return {"adapter": base, "decoder": base, "refiner": base, "scorer": 10 * base}
    base = lr or LORA_LR
    refiner = 3 * base if parts.refiner_rank else base / 15
    return {"adapter": base / 2, "decoder": base, "refiner": refiner, "scorer": 3 * base}
