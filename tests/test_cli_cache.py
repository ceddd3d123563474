"""`ep cache`: what a user sees and removes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from test_cache import KEY, put
from typer.testing import CliRunner

from epcli.cli import app
from epcli.session.cache import FeatureCache
from epcli.text import ago, parse_age, parse_size


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureCache:
    """Three entries of two files, the first not used for ten days."""
    monkeypatch.setenv("EP_CACHE_DIR", str(tmp_path / "features"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    store = FeatureCache(tmp_path / "features", 10**9)
    for name, start in (("a.mp4", None), ("b.mp4", None), ("b.mp4", 1.0)):
        film = tmp_path / name
        film.write_text(name)
        entry = put(store, film, KEY.__class__(KEY.towers, KEY.sampling, (start, None), "ep-smol"))
        if name == "a.mp4":
            old = time.time() - 10 * 86400
            os.utime(entry, (old, old))
    return store


def ep(*arguments: str) -> tuple[int, str, str]:
    run = CliRunner().invoke(app, ["cache", *arguments], standalone_mode=False)
    if run.exception:
        raise run.exception
    return run.exit_code, run.stdout, run.stderr


def test_the_list_shows_the_latest_used_first_in_80_columns(store: FeatureCache) -> None:
    _, out, err = ep("ls")
    lines = out.splitlines()
    assert lines[0].split() == ["SIZE", "USED", "MODEL", "RANGE", "FILE"]
    assert [line.split()[-1] for line in lines[1:]] == ["b.mp4", "b.mp4", "a.mp4"]
    assert "10 days ago" in lines[3]
    assert "0:00–0:02.4" in lines[3]
    assert max(map(len, lines)) <= 80
    assert err.startswith("3 entries, ")


def test_list_and_facts_are_there_as_json(store: FeatureCache) -> None:
    listed = json.loads(ep("ls", "--json")[1])
    assert [Path(entry["media"]).name for entry in listed] == ["b.mp4", "b.mp4", "a.mp4"]
    facts = json.loads(ep("info", "--json")[1])
    assert (facts["entries"], facts["files"], facts["on"]) == (3, 2, True)
    assert facts["used_bytes"] == sum(entry["size_bytes"] for entry in listed)
    assert facts["folder"] == str(store.folder)


def test_info_tells_who_switched_it_off(store: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EP_CACHE", "no")
    monkeypatch.setenv("EP_CACHE_GB", "2.5")
    out = ep("info")[1]
    assert "off, by EP_CACHE" in out
    assert "2.5 GB" in out


def test_an_empty_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EP_CACHE_DIR", str(tmp_path / "nowhere"))
    assert ep("ls")[1] == ""
    assert json.loads(ep("ls", "--json")[1]) == []
    assert "nothing yet" in ep("info")[1]
    assert ep("prune")[2] == "0 entries, 0 B removed\n"
    assert ep("clear")[0] == 0
    assert not (tmp_path / "nowhere").exists()


def test_pruning_by_age_and_by_size(store: FeatureCache) -> None:
    assert ep("prune")[2] == "0 entries, 0 B removed\n"
    _, out, err = ep("prune", "--older-than", "9d", "--dry-run")
    assert out.startswith("a.mp4  ")
    assert "would be removed" in err
    assert len(store.entries()) == 3
    ep("prune", "--older-than", "9d")
    assert [Path(entry.media).name for entry in store.entries()] == ["b.mp4", "b.mp4"]
    size = store.entries()[0].size_bytes
    ep("prune", "--size", f"{1.5 * size / 1000:.1f}kB")
    assert len(store.entries()) == 1


def test_clearing_all_or_one_file_with_its_copies(store: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "b.mp4").rename(tmp_path / "moved.mp4")
    assert ep("clear", "moved.mp4")[2].startswith("2 entries, ")
    assert [Path(entry.media).name for entry in store.entries()] == ["a.mp4"]
    (tmp_path / "a.mp4").unlink()
    assert ep("clear", "a.mp4", "--dry-run")[2].startswith("1 entry, ")  # gone, but known by its path
    with pytest.raises(Exception, match=r"nothing is stored of c\.mp4"):
        ep("clear", "c.mp4")
    ep("clear")
    assert store.entries() == []


@pytest.mark.parametrize(
    "arguments", [["prune", "--size", "much"], ["prune", "--size", "-1GB"], ["prune", "--older-than", "30"]]
)
def test_a_wrong_size_or_age_is_refused(store: FeatureCache, arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"is not an? (size|age); write"):
        ep(*arguments)
    assert len(store.entries()) == 3


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("500MB", 500_000_000), ("1.5 GiB", 3 * 2**29), ("2g", 2 * 10**9), ("1 kB", 1000)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "age"), [("90s", 90), ("5m", 300), ("12h", 43200), ("30d", 30 * 86400), ("2 W", 1209600)]
)
def test_ages_are_read_as_people_write_them(text: str, age: float) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (0, "just now"),
        (59, "just now"),
        (61, "1 min ago"),
        (7300, "2 h ago"),
        (86400 * 1.5, "36 h ago"),
        (864000, "10 days ago"),
    ],
)
def test_moments_are_told_in_words(passed: float, said: str) -> None:
    assert ago(1000.0, 1000.0 + passed) == said
