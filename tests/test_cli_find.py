"""`ep find` and `ep index`, as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from epcli.batch import jobs
from epcli.cli import app
from epcli.errors import EpError, MediaError, UsageError
from epcli.find import build
from epcli.find.index import Index
from epcli.media.probe import probe
from epcli.observe import minilm
from tests.find_samples import by_words, fill
from tests.media_samples import run as ffmpeg
from tests.test_find_index import Reader

MEDIA = Path(__file__).parents[1] / "docs" / "media"


class Words:
    embed = staticmethod(by_words)

    def is_word(self, word: str) -> bool:
        return word == "zebra"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of text "films", and neither models nor the user's index."""
    monkeypatch.setattr(build, "Observer", Reader)
    monkeypatch.setattr(minilm, "MiniLM", Words)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    for name in ("apples", "pears"):
        (tmp_path / "films" / f"{name}.mp4").write_text(f"we talk about {name} and nothing else")
    return tmp_path


def ep(*arguments: str) -> tuple[int, str, str]:
    run = CliRunner().invoke(app, list(arguments), standalone_mode=False)
    if run.exception:
        raise run.exception
    return int(run.return_value or run.exit_code), run.stdout, run.stderr


def test_the_first_search_indexes(place: Path) -> None:
    code, out, err = ep("find", "films", "pears")
    assert (code, err) == (0, "ep: indexing 2 files\n")
    assert out.split("  ")[0] == "films/pears.mp4"
    assert 'said: "we talk about pears and nothing else"' in out
    assert (place / "cache" / "epcli" / "index.sqlite").is_file()
    assert ep("find", "apples")[1].startswith("films/apples.mp4")  # without a folder: all that is indexed


def test_nothing_found_is_told_and_no_error(place: Path) -> None:
    assert ep("find", "films", "zebra", "--quiet") == (0, "", "")
    assert ep("find", "films", "zebra") == (0, "", "ep: nothing found for 'zebra'\n")
    assert ep("find", "films", "aplles")[2] == "ep: nothing found for 'aplles'; did you mean 'apples'?\n"
    assert (
        ep("find", "films", "aplles", "--read")[2] == "ep: nothing found for 'aplles'\n"
    )  # apples are not read either
    assert json.loads(ep("find", "films", "zebra", "--json")[1]) == []
    assert ep("find", "films", "zebra", "--play")[1] == ""


def test_a_folder_without_media_is_told(place: Path) -> None:
    (place / "empty").mkdir()
    told = "ep: empty: no media file there is indexed\n"
    assert ep("find", "empty", "zebra") == (0, "", told)
    ep("index", "films", "-q")
    assert ep("find", "empty", "zebra") == (0, "", told)


def test_the_list_as_json(place: Path) -> None:
    (hit,) = json.loads(ep("find", "films", "pears", "--json")[1])
    assert hit["path"] == str(place / "films" / "pears.mp4")
    assert list(hit) == ["path", "start_s", "end_s", "score", "why"]
    assert hit["why"][0]["how"] == "said"


def test_flags_narrow(place: Path) -> None:
    assert ep("find", "films", "dog", "--seen", "--limit", "1")[1].count("\n") == 1
    assert ep("find", "films", "dog", "--said", "-q")[1] == ""
    assert ep("find", "films", "pears", "--since", "1d")[1]
    assert ep("find", "films", "pears", "--since", "999999999d")[1]  # before there were files
    assert not ep("find", "films", "pears", "--since", "2100-01-01", "-q")[1]
    assert not ep("find", "films", "pears", "--since", "9999-12-31", "-q")[1]


def test_a_new_file_is_found_unless_told_otherwise(place: Path) -> None:
    ep("index", "films", "-q")
    (place / "films" / "plums.mp4").write_text("we talk about plums and nothing else")
    assert not ep("find", "films", "plums", "--no-update", "-q")[1]
    assert ep("find", "films", "plums")[1]
    (place / "films" / "plums.mp4").unlink()
    assert not ep("find", "plums", "-q")[1]  # a file that is not there is not shown


def test_clips_of_files_with_one_name_stay_apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        (place / "films" / folder).mkdir()
        (place / "films" / folder / "same.mp4").write_text("we talk about plums and nothing else")
    cuts: list[tuple[str, str]] = []

    def note(path: Path, *_: object, mark: str, **__: object) -> Path:
        cuts.append((path.parent.name, mark))
        return path

    monkeypatch.setattr("epcli.media.cut.cut", note)
    ep("find", "films", "plums", "--clip", "cuts")
    assert cuts == [("a", ""), ("b", "2")]


def test_a_moment_that_cannot_be_cut_costs_no_other(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_pears(path: Path, *_: object, **__: object) -> Path:
        if path.stem == "pears":
            raise MediaError("pears.mp4: cannot be read")
        return path

    monkeypatch.setattr("epcli.media.cut.cut", refuse_pears)
    code, out, err = ep("find", "films", "we talk about", "--clip", "cuts", "--json")
    assert (code, err) == (3, "ep: error: pears.mp4: cannot be read\n")
    assert [(Path(hit["path"]).stem, hit["clip"] is None) for hit in json.loads(out)] == [
        ("apples", False),
        ("pears", True),
    ]


def test_while_another_indexes_what_is_there_is_searched(place: Path) -> None:
    ep("index", "films", "-q")
    with Index(place / "cache" / "epcli" / "index.sqlite") as other, other.writing():
        code, out, err = ep("find", "films", "pears")
        assert code == 0
        assert out
        assert "another process is indexing" in err
        with pytest.raises(EpError, match="another process is indexing"):
            ep("index", "films")


@pytest.mark.parametrize(
    "query",
    [
        'pears" OR 1=1; DROP TABLE files; --',
        "pears* NEAR(we talk) AND {text} : ^pears - NOT (",
        "pears' UNION SELECT * FROM files --",
        "pears \x07\x1b]0;title\x07 \u202e",
        "pears " * 160,
        "pears \udcff",
        "p\u0065\u0301ars pears 梨 🍐",
    ],
)
def test_no_query_is_a_command(place: Path, query: str) -> None:
    code, out, err = ep("find", "films", query)
    assert code == 0
    assert len((out + err.removeprefix("ep: indexing 2 files\n")).splitlines()) == 1
    assert out.isprintable() or out.removesuffix("\n").isprintable()
    assert err.replace("\n", "").isprintable()
    assert ep("find", "pears")[1].startswith("films/pears.mp4")  # nothing was dropped


@pytest.mark.parametrize(
    ("name", "message"), [("pipe", "not a regular file"), ("circle", "symbolic links"), ("nothing", "no such file")]
)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_what_is_neither_folder_nor_file_is_told(place: Path, name: str, message: str) -> None:
    os.mkfifo(place / "pipe")
    (place / "circle").symlink_to("circle")
    (place / "nothing").symlink_to("nowhere")
    for command in (["index", name], ["find", name, "pears"]):
        with pytest.raises(MediaError, match=message):
            ep(*command)


def test_a_file_that_failed_is_told_each_time(place: Path) -> None:
    (place / "films" / "bad.mp4").write_text("broken")
    assert "is broken" in ep("find", "films/bad.mp4", "pears")[2]
    assert ep("find", "films/bad.mp4", "pears")[2] == (
        "ep: films/bad.mp4: no media file there could be read; `ep index` says why\n"
    )


def test_index_tells_of_a_folder_without_media(place: Path) -> None:
    (place / "empty").mkdir()
    assert ep("index", "empty") == (0, "", "ep: empty: no media files found; --include takes files of other names\n")
    assert json.loads(ep("index", "empty", "--json")[1])["indexed"] == 0
    (place / "films" / "apples.mp4").rename(place / "empty" / "apples.mp4")
    ep("index", "empty", "-q")
    (place / "empty" / "apples.mp4").unlink()
    assert "0 files indexed (0.0 min), 1 gone" in ep("index", "empty")[2]


@pytest.mark.parametrize("command", [["index", "folder"], ["find", "folder", "pears"]])
@pytest.mark.parametrize("state", ["not there", "locked"])
def test_a_folder_that_cannot_be_read_is_one_line(
    place: Path, command: list[str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if state == "locked":  # for root nothing is
        (place / "folder").mkdir()
        monkeypatch.setattr(jobs.os, "access", lambda path, mode: False)
    run = CliRunner().invoke(app, command, standalone_mode=False)
    assert isinstance(run.exception, EpError)
    assert (run.stdout, run.stderr) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["find", "pears"], "there is no index yet"),
        (["find", "nowhere", "pears"], "nowhere: there is no such file or folder; the last word is the query"),
        (["find", "films"], "is a folder; say also what to find"),
        (["find", "films", "?"], "no word in the query"),
        (["find", "films", ""], "the query is empty: say what to find"),
        (["find", "films", "pears", "--index", "films"], "films: is a folder; --index names a file"),
        (["find", "", "pears"], "the path is empty"),
        (["find", "films", "x" * 10_000], "the query is 10,000 characters long; 1,000 are the most"),
        (["find", "films", "pears", "--since", "soon"], "neither an age nor a date"),
        (["find", "films", "pears", "--since", ""], "neither an age nor a date"),
        (["find", "films", "pears", "--since", "-3d"], "neither an age nor a date"),
        (["find", "films", "pears", "--since", "9" * 400 + "d"], "neither an age nor a date"),
        (["find", "films", "pears", "--exact"], "--exact goes with --clip"),
        (["find", "films", "pears", "--json", "--play"], "two forms"),
        (["index", "films", "--forget", "--watch"], "--forget only removes"),
        (["find", "films", "pears", "--clip", "films/pears.mp4"], "is no folder"),
        (["index", "--watch"], "name a folder or file"),
        (["index", "films/pears.mp4", "--watch"], "give a folder to watch"),
        (["index"], "there is no index yet"),
    ],
)
def test_a_mistake_is_one_line(place: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        ep(*arguments)


def test_index_tells_what_it_did_and_holds(place: Path) -> None:
    (place / "films" / "bad.mp4").write_text("broken")
    code, out, err = ep("index", "films", "--json")
    facts = json.loads(out)
    assert code == 3
    assert (facts["indexed"], facts["failed"], facts["total_files"], facts["total_lines"]) == (2, 1, 3, 2)
    assert "ep: films/bad.mp4: is broken" in err
    status = ep("index")[1]
    assert "files           2" in status
    assert json.loads(ep("index", "--json")[1])["failures"][0]["error"] == "bad.mp4: is broken"
    assert json.loads(ep("index", "films/apples.mp4", "--forget", "--json")[1])["forgotten"] == 1
    assert "1 file forgotten" in ep("index", "films/bad.mp4", "--forget")[2]
    with pytest.raises(UsageError, match="is in the index"):
        ep("index", "films/bad.mp4", "--forget")


def test_a_name_cannot_steer_the_terminal(place: Path) -> None:
    (place / "films" / "p\x1b[2J\nears.mp4").write_text("we talk about quinces and nothing else")
    code, out, _ = ep("find", "films", "quinces")
    assert code == 0
    assert "\x1b" not in out
    assert out.count("\n") == 1
    assert "\x1b" not in ep("find", "films", "quinces", "--json")[1]
    assert "\x1b" not in ep("find", "films", "quinces", "--play")[1]


def test_two_columns_line_up(place: Path) -> None:
    with Index(place / "cache" / "epcli" / "index.sqlite") as index:
        fill(index, place / "films")
        for path in index.files_within():
            path.path.write_text("")
    out = ep("find", "vehicle", "--seen")[1].splitlines()
    assert len({line.index("seen:") for line in out}) == 1


# --- With the parts, on real files ----------------------------------------------------------------------


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    weights = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epcli" / "models"
    (home / "epcli").mkdir(parents=True, exist_ok=True)
    if not (home / "epcli" / "models").exists():
        (home / "epcli" / "models").symlink_to(weights)
    return subprocess.run(
        [sys.executable, "-m", "epcli", *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_search_imports_no_model_library(place: Path) -> None:
    ep("index", "films", "-q")
    program = """
import sys
from tests.find_samples import by_words
from epcli.observe import minilm
minilm.MiniLM = lambda: type("Words", (), {"embed": staticmethod(by_words)})
from epcli.cli import app
app(["find", "pears", "-q"], standalone_mode=False)
print(*sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(MEDIA.parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "films/pears.mp4" in run.stdout
    assert not {"torch", "transformers", "av", "cv2"} & set(run.stdout.split())


def kill_when(query: str, *arguments: str, home: Path) -> Path:
    """Run `ep` and SIGKILL it as soon as a query of its index gives a row -> the index."""
    (home / "epcli").mkdir(parents=True)
    index = home / "epcli" / "index.sqlite"
    running = subprocess.Popen(
        [sys.executable, "-m", "epcli", *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(home)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and running.poll() is None:
        with suppress(sqlite3.Error), sqlite3.connect(f"file:{index}?mode=ro", uri=True) as base:
            if base.execute(query).fetchone():
                break
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    with sqlite3.connect(index) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert base.execute(query).fetchone()
    return index


@pytest.mark.slow
def test_a_killed_look_at_a_long_film_goes_on_to_the_same_result(tmp_path: Path) -> None:
    film, home = tmp_path / "film.mkv", tmp_path / "home"
    small = ("-vf", "scale=160:96,fps=2", "-c:v", "libx264", "-c:a", "aac")
    ffmpeg("-stream_loop", "9", "-i", MEDIA / "farm.mp4", *small, film)
    index = kill_when("SELECT 1 FROM begun", "index", str(film), home=home)

    def rows() -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        with sqlite3.connect(index) as base:
            said = base.execute(
                "SELECT how, text, start_s, end_s, confidence, place FROM lines ORDER BY start_s, id"
            ).fetchall()
            seen = base.execute(
                "SELECT how, text, start_s, end_s, confidence, place, count FROM sightings "
                "JOIN names ON names.id = name ORDER BY start_s, end_s, how, text"
            ).fetchall()
        return said, seen

    with sqlite3.connect(index) as base:
        base.execute(
            """INSERT INTO begun_parts SELECT path, '[["text", "from before", 1, 2, 0.9, "", null, 1]]' FROM begun"""
        )
    run("index", str(film), home=home)
    lines, sightings = rows()
    assert lines.pop(0)[1] == "from before"  # what was known is not looked at again
    assert len(sightings) > 2
    run("index", str(film), "--rebuild", home=home)
    assert rows() == (lines, sightings)


@pytest.mark.slow
def test_real_files_are_found_after_a_kill(tmp_path: Path) -> None:
    films, home = tmp_path / "films", tmp_path / "home"
    films.mkdir()
    for name in ("duet", "farm", "speech"):
        shutil.copyfile(MEDIA / f"{name}.mp4", films / f"{name}.mp4")
    (films / "broken.mp4").write_bytes(b"\0" * 1000)
    index = kill_when("SELECT 1 FROM files WHERE failure IS NULL", "index", str(films), home=home)
    with sqlite3.connect(index) as base:
        before = base.execute("SELECT count(*) FROM files").fetchone()[0]
    again = run("index", str(films), "--json", home=home)
    assert json.loads(again.stdout)["unchanged"] == before, again.stderr
    (failure,) = json.loads(run("index", "--json", home=home).stdout)["failures"]
    assert Path(failure["path"]).name == "broken.mp4"

    def best(*query: str) -> dict[str, object]:
        found = run("find", str(films), *query, "--json", home=home)
        assert found.returncode == 0, found.stderr
        hits = json.loads(found.stdout)
        assert hits, query
        return {**hits[0], "name": Path(hits[0]["path"]).name}

    assert best("a dog barking")["name"] == "farm.mp4"
    cow = best("a cow mooing", "--clip", str(tmp_path / "cuts"))
    assert cow["name"] == "farm.mp4"
    assert 3 < float(str(cow["start_s"])) < 6
    assert probe(Path(str(cow["clip"]))).duration_s > 0.5
    assert best("somebody says 'number'")["name"] == "speech.mp4"
    assert best("string instrument")["name"] == "duet.mp4"
