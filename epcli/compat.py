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
