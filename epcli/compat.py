"""What differs between the versions of transformers that pyproject.toml allows."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any


@cache
def _calls_it_cache(forward: Any) -> bool:
    return "cache" in inspect.signature(forward).parameters


def caching(module: Any, keys_and_values: Any) -> dict[str, Any]:
    """Arguments by which a decoder, or a layer of one, reads a cache and adds to it.

    transformers 5.24 renamed `past_key_values` to `cache`, and warns about the old name until 5.40.
    """
    name = "cache" if _calls_it_cache(type(module).forward) else "past_key_values"
    return {name: keys_and_values, "use_cache": True}


def vision_window_order(visual: Any, grid: Any) -> Any:
    """(n,) int64: which token stands at each place inside Qwen2.5-Omni's vision tower. `grid`: (N, 3) patches."""
    if hasattr(visual, "get_window_index"):
        return visual.get_window_index(grid)[0]
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

    sizes = {name: getattr(visual, name) for name in ("spatial_merge_size", "window_size", "patch_size")}
    return modeling.get_vision_window_index(grid, **sizes, kwargs={})[0]
