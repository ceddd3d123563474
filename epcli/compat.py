"""What differs between the versions of transformers that pyproject.toml allows."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any


@cache
def _name_of_cache(kind: type) -> str:
    names = inspect.signature(kind.forward).parameters  # type: ignore[attr-defined]
    return "cache" if "cache" in names else "past_key_values"


def caching(module: Any, keys_and_values: Any) -> dict[str, Any]:
    """Arguments by which a decoder, or a layer of one, reads a cache and adds to it.

    transformers 5.24 renamed `past_key_values` to `cache`, and warns about the old name until 5.40.
    """
    return {_name_of_cache(type(module)): keys_and_values, "use_cache": True}
