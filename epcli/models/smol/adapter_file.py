"""Where the trained part of ep-smol lies in the wheel."""

from __future__ import annotations

from pathlib import Path

ADAPTER = Path(__file__).parent / "data" / "ep_smol.safetensors"
