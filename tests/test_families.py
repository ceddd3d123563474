"""The families of models: how they are found, and that no other room knows one of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.models import catalog

PACKAGE = Path(__file__).parents[1] / "epcli"
FAMILIES = sorted(file.parent.name for file in (PACKAGE / "models").glob("*/family.py"))
NAMES = ["ep-smol", "qwen2.5-omni-7b", "qwen2.5-omni-3b"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Entry points in place of those of this environment."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(catalog, "entry_points", lambda group: points)
    catalog.families.cache_clear()
    yield points
    catalog.families.cache_clear()


def ours(name: str) -> EntryPoint:
    return EntryPoint(name, f"epcli.models.{name}.family:FAMILY", catalog.GROUP)


@pytest.mark.parametrize("names", [[], ["smol", "qwen_omni"], ["qwen_omni", "smol"], ["smol", "smol", "qwen_omni"]])
def test_the_families_of_epcli_are_found_once_in_one_order_installed_or_not(installed, names):
    installed += map(ours, names)
    assert [card.name for card in catalog.cards()] == NAMES


def test_pyproject_names_every_family_in_the_tree():
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split('[project.entry-points."epcli.models"]')[1].split("[")[0]
    assert sorted(re.findall(r'"epcli\.models\.(\w+)\.family:FAMILY"', section)) == FAMILIES


def test_a_package_that_cannot_be_imported_is_told_and_left_out(installed, capsys):
    installed += [ours("smol"), ours("qwen_omni"), EntryPoint("gone", "nowhere:FAMILY", catalog.GROUP)]
    assert [card.name for card in catalog.cards()] == NAMES
    assert capsys.readouterr().err.startswith("ep: the models of nowhere:FAMILY cannot be used")


def test_the_default_model_is_one_that_is_listed():
    assert catalog.find(Profile.model).name in NAMES


def test_a_name_that_no_family_knows_is_told_with_all_that_are():
    with pytest.raises(UsageError, match=r"qwen2\.5-omni-3b; or give the folder of a Qwen2\.5-Omni checkpoint"):
        catalog.find("nothing-here")


def test_no_room_but_the_lab_and_the_conformance_check_imports_a_family():
    own = [PACKAGE / "models" / name for name in FAMILIES]
    pattern = re.compile(rf"epcli\.models(\.| import )({'|'.join(FAMILIES)})\b")
    found = [
        file.relative_to(PACKAGE).as_posix()
        for file in sorted(PACKAGE.rglob("*.py"))
        if not any(file.is_relative_to(folder) for folder in (*own, PACKAGE / "lab"))
        and pattern.search(file.read_text(encoding="utf-8"))
    ]
    assert found == ["evals/conformance.py", "evals/conformance_seats.py"]


def test_listing_models_loads_no_model_library():
    code = "import sys; from epcli.models import catalog; catalog.cards(); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "av"} & set(run.stdout.split())
