"""The list of selectors: one file each, read by everything that names selectors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from epcli.config import SETTINGS, Profile
from epcli.lab.sweep import read_settings
from epcli.session.chat import _help
from epcli.session.selection import default_selector
from epcli.sieve.selector import NEEDS
from epcli.sieve.selectors import SELECTORS

FIRST_ONE = """
from epcli.sieve.selector import Selector


def keep(stream, budget, tools):
    import torch

    from epcli.sieve.select import best, keep_only

    media = stream.modality != 0
    early = -torch.arange(len(media), dtype=torch.float32)
    return keep_only(stream, ~media | best(early, media, budget.count(int(media.sum()))), None)


SELECTOR = Selector(name="first-ones", help="the beginning of the clip", shown="They are the first ones.", run=keep)
"""


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_says_what_it_is(name: str) -> None:
    selector = SELECTORS[name]
    assert selector.name == name
    assert "\n" not in selector.help
    assert selector.shown.endswith(".")
    assert set(selector.needs) <= set(NEEDS)
    assert selector.scored_by is None or SELECTORS[selector.scored_by].scored_by == selector.scored_by


def test_everything_that_names_selectors_reads_the_one_list() -> None:
    assert SETTINGS["selector"].choices == tuple(SELECTORS)
    assert {each.selector for each in read_settings("all", has_sieve=True)} == set(SELECTORS)
    assert " ".join(_help().split()).count(", ".join(SELECTORS)) == 1


@pytest.mark.slow
def test_a_selector_is_added_by_one_file(tmp_path: Path) -> None:
    skipped = shutil.ignore_patterns("__pycache__", "lab")
    for folder in ("epcli", "profiles"):
        shutil.copytree(Path(__file__).parent.parent / folder, tmp_path / folder, ignore=skipped)
    (tmp_path / "epcli/sieve/selectors/first_ones.py").write_text(FIRST_ONE)

    def ep(*arguments: str) -> str:
        run = subprocess.run(
            [sys.executable, "-m", "epcli", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        return run.stdout + run.stderr

    assert "first-ones" in ep("ask", "clip.mp4", "What?", "--selector", "best")
    assert "first-ones" not in ep("ask", "clip.mp4", "What?", "--selector", "first-ones")


@pytest.mark.parametrize(
    ("settings", "trained", "chosen"),
    [
        ({}, False, "none"),
        ({"keep": 0.1}, False, "seats"),
        ({"budget": 100}, False, "seats"),
        ({"keep": "auto"}, False, "query-aware"),  # it goes by scores
        ({}, True, "cs2"),
        ({"keep": 0.1}, True, "cs2"),
    ],
)
def test_without_a_selector_model_and_settings_decide(settings: dict[str, Any], trained: bool, chosen: str) -> None:
    assert default_selector(Profile(**settings), trained) == chosen


def test_the_list_of_selectors_loads_no_model_library() -> None:
    code = "import sys, epcli.config; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
