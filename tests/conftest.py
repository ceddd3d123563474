"""No test reads or writes the user's own feature cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from epcli import content
from epcli.session import cache


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for this run. Processes that a test starts are told by EP_CACHE_DIR instead (test_cli.py)."""
    home = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "default_folder", lambda: home / "features")
        patch.setattr(content, "memory", lambda: home / "hashes")
        patch.setenv("EP_CACHE_DIR", str(home / "features"))
        yield home


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long test_batch_soak.py goes on."""
    parser.addoption("--soak-files", type=int, default=60, help="files of the soak test (500 for the whole of it)")
    parser.addoption("--soak-kills", type=int, default=3, help="how often its process is killed (10)")
