"""The keys and values of a prompt and its answer, with room for the tokens to come.

transformers' own cache joins all it has and one token anew in every layer and step. Here a layer's keys and values lie
at the beginning of a longer buffer, a token is written behind them, and every ROOM tokens the buffer grows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 256  # tokens that are written before anything is copied


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, (B, heads, n, size) each. `keys` and `values` are views, and may be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms: dict[str, Tensor] = {}  # by attribute: the buffer that it is the beginning of

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the states of new tokens behind those that are there; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys = self._append("keys", self.keys, key_states)
        self.values = self._append("values", self.values, value_states)
        return self.keys, self.values

    def _append(self, name: str, held: Tensor, new: Tensor) -> Tensor:
        begin = held.shape[-2] if held.numel() else 0
        end = begin + new.shape[-2]
        room = self._rooms.get(name)
        # Others crop and index a layer's keys: a crop is still the buffer's beginning, what was indexed is not.
        own = room is not None and begin > 0 and held.data_ptr() == room.data_ptr() and held.stride() == room.stride()
        if room is None or not own or end > room.shape[-2]:
            room = new.new_empty(*new.shape[:-2], end + ROOM, new.shape[-1])
            if begin:
                room[..., :begin, :] = held
            self._rooms[name] = room
        room[..., begin:end, :] = new
        return room[..., :end, :]

    def reset(self) -> None:
        """Forget everything."""
        self._rooms.clear()
        super().reset()


def new_cache(decoder: Any) -> DynamicCache:
    """An empty cache for a decoder."""
    cache = DynamicCache(config=decoder.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@contextmanager
def masks_that_fit(decoder: Any, cache: DynamicCache) -> Iterator[None]:
    """Inside, the decoder may read several tokens at once on a cache whose layers hold different numbers of tokens.

    Its attention mask is made for the first layer, which holds the most; later layers get the end of it.
    """

    def fit(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if (mask := kwargs.get("attention_mask")) is not None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            size = cache.get_seq_length(module.layer_idx) + hidden.shape[1]
            kwargs["attention_mask"] = mask[..., mask.shape[-1] - size :]
        return args, kwargs

    hooks = [layer.self_attn.register_forward_pre_hook(fit, with_kwargs=True) for layer in decoder.layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def cache_bytes(cache: DynamicCache) -> int:
    """Bytes of all cached keys and values, without the room behind them."""
    tensors = (getattr(layer, name) for layer in cache.layers for name in ("keys", "values"))
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
