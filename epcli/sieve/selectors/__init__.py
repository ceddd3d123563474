"""Selectors by name: what stays of a stream. `select` is the way in.

Each file here defines one selector as `SELECTOR` (see selector.py). To add one, add a file: the choices of
`--selector`, the pages, the sweep and the tests all read `SELECTORS`. Files import torch inside their functions only,
because the command line reads this list for its help.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

from epcli.errors import UsageError
from epcli.sieve.selector import Selector, Tools

if TYPE_CHECKING:
    from epcli.records import KeptStream, TokenStream
    from epcli.sieve.select import Budget

__all__ = ["SELECTORS", "TRAINED", "TRAINING_FREE", "TRAINING_FREE_SCORED", "Selector", "Tools", "select"]

TRAINED = "cs2"  # of a model with a trained sieve, unless another selector is asked for
TRAINING_FREE = "seats"  # of a model without, where tokens are to be dropped
TRAINING_FREE_SCORED = "query-aware"  # the same for `--keep auto`, which goes by scores


def discover() -> dict[str, Selector]:
    """The selectors of this folder's files by name: the trained ones first, then by name."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found: list[Selector] = [module.SELECTOR for module in modules]
    return {each.name: each for each in sorted(found, key=lambda each: (not each.trained, each.name))}


SELECTORS = discover()


def select(name: str, stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """Keep `budget` of the stream's sound and picture tokens, and all its text, in original order.

    Raises UsageError for an unknown name, a model without what the selector needs, or a budget it cannot count.
    """
    import torch

    if name not in SELECTORS:
        raise UsageError(f"no selector named {name!r}; there are: {', '.join(SELECTORS)}")
    with torch.inference_mode():
        return SELECTORS[name].run(stream, budget, tools)
