"""No test reads or writes the user's own feature cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from epcli import cache, content


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for this run. Processes that a test starts are told by EP_CACHE_DIR instead (test_cli.py)."""
    home = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "default_folder", lambda: home / "features")
        patch.setattr(content, "memory", lambda: home / "hashes")
        patch.setenv("EP_CACHE_DIR", str(home / "features"))
        yield home
