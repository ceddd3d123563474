"""A family of models from another package: installed beside epcli, it answers through every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "docs" / "media" / "duet.mp4"
Ep = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ep(tmp_path_factory: pytest.TempPathFactory) -> Ep:
    """`ep` in an environment with the package `ep-toy`, with folders of its own."""
    place, home = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("home")
    quiet = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    package = [*quiet, "--target", str(place), str(ROOT / "tests" / "toy_family")]
    subprocess.run([sys.executable, "-m", "pip", "install", *package], check=True, timeout=300)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EP_")}
    environment = kept | {
        "PYTHONPATH": os.pathsep.join([str(place), str(ROOT)]),
        "XDG_CACHE_HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "EP_MODEL": "toy",
        "EP_DEVICE": "cpu",
        "EP_THREADS": "1",
        "EP_MAX_NEW_TOKENS": "4",
    }

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "epcli", *map(str, arguments)]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_it_is_listed_and_shown_beside_the_others(ep: Ep) -> None:
    listed = ep("models", "list").stdout
    assert [line.split(":")[0] for line in listed.splitlines() if not line.startswith(" ")] == [
        "ep-smol",
        "qwen2.5-omni-7b",
        "qwen2.5-omni-3b",
        "toy",
    ]
    assert "toy: ready" in listed
    assert "answers nonsense" in ep("models", "show", "toy").stdout


def test_it_answers_and_its_features_are_cached(ep: Ep) -> None:
    ask = ["ask", CLIP, "What plays?", "--json"]
    first, again = (json.loads(ep(*ask, *more).stdout) for more in ((), ("--keep", "0.3")))
    assert (first["model"], first["selector"]) == ("toy", "none")
    assert again["tokens"]["keep_ratio"] == pytest.approx(0.3, abs=0.02)
    assert (first["cache"]["features"], again["cache"]["features"]) == ("miss", "hit")
    assert first["tokens"]["video"]["total"] > 0
    assert again["tokens"]["audio"]["total"] > 0
    assert CLIP.name in ep("cache", "ls").stdout
    planned = json.loads(ep("plan", CLIP, "--json").stdout)
    assert planned["model"] == "toy"
    for modality in ("video", "audio"):
        assert planned["tokens"][modality]["total"] == first["tokens"][modality]["total"]
    ep("cache", "clear")
    assert CLIP.name not in ep("cache", "ls").stdout


def test_a_folder_of_its_own_is_found_although_another_family_refuses_it(ep: Ep, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "toy.json").write_text('{"seed": 1}')
    report = json.loads(ep("ask", CLIP, "What?", "--model", tmp_path / "mine", "--json").stdout)
    assert report["model"] == "mine"


def test_it_is_inspected(ep: Ep, tmp_path: Path) -> None:
    ep("inspect", CLIP, "What plays?", "--html", tmp_path / "page.html")
    assert "toy" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_it_answers_a_batch(ep: Ep, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    ep("batch", CLIP, "-Q", "What plays?", "-Q", "Who?", "--out", out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["question"] for row in rows] == ["What plays?", "Who?"]
    assert {row.get("error") for row in rows} == {None}


def test_a_family_that_is_broken_is_one_line_and_the_others_work(tmp_path: Path) -> None:
    about = tmp_path / "ep_broken-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ep-broken\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[epcli.models]\nbroken = ep_broken:FAMILY\n")
    code = "from epcli.models import catalog; print(catalog.cards())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "ep-smol" in run.stdout
    assert run.stderr.splitlines() == [
        "ep: the models of ep_broken:FAMILY cannot be used: ModuleNotFoundError: No module named 'ep_broken'"
    ]
