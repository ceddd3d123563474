"""Numbers as people read them."""

from __future__ import annotations


def size(n_bytes: float) -> str:
    """Bytes with a decimal unit, as shops and file managers count: 188 MB, 1.5 GB."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"
