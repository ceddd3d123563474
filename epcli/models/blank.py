"""Modules whose weights are assigned after they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _WithoutCompiler(TorchFunctionMode):
    """Leaves out what torch would import its compiler for: a second or more, for numbers that nobody needs."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":  # first weights, which are replaced
            return args[0] if args else kwargs["tensor"]
        if func is torch.arange:  # rotary frequencies: a few numbers, made for real
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


@contextmanager
def blank() -> Iterator[None]:
    """Modules made inside take no memory, and nobody draws their first weights."""
    with torch.device("meta"), _WithoutCompiler():
        yield
