"""`ep inspect` as its users meet it, with a tiny random model: outputs that agree, outputs that cannot be written."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_omni
from media_samples import run as ffmpeg
from media_samples import shared_film

from epcli import cli
from epcli.media import play
from epcli.media.probe import probe
from epcli.report.draw import DIM, STRIP
from epcli.text import visible

ASK = ("inspect", "film.mp4", "What?", "--model", "tiny", "--selector", "random", "--keep", "0.3", "--no-cache")
Ep = Callable[..., tuple[Any, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a film of two seconds, and settings."""
    folder = tmp_path_factory.mktemp("place")
    tiny_omni.write(folder / "tiny")
    (folder / "film.mp4").write_bytes(shared_film("inspect.mp4", length=2).read_bytes())
    (folder / "ep.yaml").write_text("max_new_tokens: 4\nthreads: 1\n")
    return folder


@pytest.fixture
def ep(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ep:
    """The program in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(place)
    for name in [key for key in os.environ if key.startswith("EP_")]:
        monkeypatch.delenv(name)
    for name, value in (
        ("XDG_CONFIG_HOME", str(tmp_path / "xdg")),
        ("EP_CACHE_DIR", str(tmp_path / "features")),
        ("NO_COLOR", "1"),
        ("COLUMNS", "80"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ):
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["ep", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    return call


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.mark.slow
def test_the_page_the_json_and_the_command_that_repeats_it_agree(ep: Ep, place: Path, tmp_path: Path) -> None:
    page = tmp_path / "kept.html"
    code, out, err = ep(*ASK, "--profile", "cpu", "--max-pixels", "3136", "--html", str(page), "--json")
    assert (code, err) == (0, wrote(page))
    body, shown = json.loads(out)["runs"][0], data_of(page)["runs"][0]
    assert body["report"]["profile"] == {"name": "cpu", "why": "--profile"}
    assert shown["settings"][0] == ["profile", "cpu"]
    assert body["report"]["answer"] == shown["answer"]
    assert names(tmp_path) == ["kept.html"]

    again, out, _ = ep(*shlex.split(shown["command"])[1:], "--no-cache", "--json")
    repeated = json.loads(out)["runs"][0]
    assert again == 0
    assert repeated["kept_tokens"] == body["kept_tokens"]
    assert repeated["report"]["answer"] == body["report"]["answer"]
    differs = {key for key, value in repeated["report"]["settings"].items() if value != body["report"]["settings"][key]}
    assert not differs


def wrote(path: Path) -> str:
    from epcli.text import size

    return f"ep: wrote {path} ({size(path.stat().st_size)})\n"


@pytest.mark.slow
def test_ask_tells_the_evidence_that_inspect_shows(ep: Ep) -> None:
    asked, inspected = (
        json.loads(ep(command, *ASK[1:], *flags, "--json")[1])
        for command, *flags in (("ask", "--evidence"), ("inspect",))
    )
    report, tokens = inspected["runs"][0]["report"], inspected["runs"][0]["kept_tokens"]
    assert asked["evidence"] == report["evidence"]
    assert (asked["answer"], asked["tokens"]) == (report["answer"], report["tokens"])
    for modality, share in report["evidence"]["shares"].items():
        told = sum(token["evidence"] for token in tokens if token["modality"] == modality)
        assert share == pytest.approx(told, abs=1e-6)
    _, out, err = ep("ask", *ASK[1:], "--evidence")
    assert "what carried the answer" in err
    assert all(moment["label"] in err for moment in asked["evidence"]["moments"])
    assert out.strip() == visible(asked["answer"]).strip()


@pytest.mark.slow
def test_the_film_dims_what_the_json_says_was_dropped(ep: Ep, tmp_path: Path) -> None:
    film = tmp_path / "kept.mp4"
    code, out, err = ep(*ASK, "--video", str(film), "--json")
    assert (code, err) == (0, wrote(film))
    info, body = probe(film), json.loads(out)
    assert (info.width, info.height) == (64, 48 + STRIP)
    assert info.duration_s == pytest.approx(2, abs=0.1)
    assert info.has_audio
    frames = list(play.frames(film, 0.0, 2.0, (64, 48 + STRIP), 25.0))
    source = list(play.frames(Path("film.mp4"), 0.0, 2.0, (64, 48), 25.0))
    rows, columns = body["grid"]["rows"], body["grid"]["columns"]
    tokens = [token for token in body["runs"][0]["kept_tokens"] if token["modality"] == "video"]
    assert 0 < len(tokens) < rows * columns * len(body["grid"]["frame_times_s"])
    for number in (30, 45):
        now = [token for token in tokens if token["start_s"] <= number / 25 < token["end_s"]]
        kept = {(token["cell"]["row"], token["cell"]["column"]) for token in now}
        for row in range(rows):
            for column in range(columns):
                y, x = int((row + 0.5) * 48 / rows), int((column + 0.5) * 64 / columns)
                bright = frames[number][y, x].mean() > source[number][y, x].mean() * (1 + DIM) / 2
                assert bright == ((row, column) in kept), (number, row, column)


@pytest.mark.slow
def test_selectors_side_by_side_and_where_settings_come_from(ep: Ep, tmp_path: Path) -> None:
    sheet = tmp_path / "kept.png"
    code, out, err = ep(
        *ASK[:5], "--keep", "0.3", "--no-cache", "--compare", "uniform,random,none", "--png", str(sheet)
    )
    assert code == 0
    assert err == "ep: max_new_tokens, threads set by ep.yaml in this folder\n" + wrote(sheet)
    assert [re.search(rf"^ {name} +(\S+)", out, re.MULTILINE)[1] for name in ("uniform", "random")]
    assert re.search(r"^ none +100.0%", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "."], "--html .: is a folder; name a file"),
        (["--html", "none/a.html"], "--html none/a.html: there is no folder none"),
        (["--html", os.devnull], "is no ordinary file"),
        (["--html", "x" * 300], "name too long"),
        (["--png", "a.jpg"], "--png a.jpg: is written as PNG; give it the ending .png"),
        (["--video", "a.webm"], "--video a.webm: is written as MP4; give it the ending .mp4"),
        (["--video", "film.mp4"], "--video film.mp4: is the file to be looked at; name another"),
        (["--html", "a.png", "--png", "a.png"], "--png a.png: --html is written there; name another file"),
        (["--no-media"], "--no-media is about the page that --html writes: give --html too"),
        (["--compare", "random,,uniform"], "name selectors with commas between them"),
        (["--compare", "random", "--selector", "uniform"], "--compare and --selector both name selectors"),
        (["--compare", "random,uniform", "--video", "a.mp4"], "--video shows one question and one selector"),
        (["--compare", "randon"], "no selector named 'randon'"),
        (["--max-pixels", "9"], "--max-pixels: 9 is not a whole number from 784 up"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_writes_nothing(
    arguments: list[str], message: str, ep: Ep, place: Path
) -> None:
    before = names(place)
    code, out, err = ep(*ASK[:5], "--json", *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("ep: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert names(place) == before


@pytest.mark.parametrize(
    "flag", ["--html kept.html", "--png kept.png", "--video kept.mp4", "--no-audio --video kept.mp4"]
)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(flag: str, ep: Ep, tmp_path: Path) -> None:
    *others, flag, name = flag.split()
    path = tmp_path / name
    path.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # of one file: what a full disk does, for any user
    try:
        code, out, err = ep(*ASK, *others, flag, str(path), "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert out == ""
    assert err.startswith("ep: error: ")
    assert err.count("\n") == 1
    assert name in err
    assert path.read_text() == "before"
    assert names(tmp_path) == [name]


@pytest.mark.slow
def test_an_interrupted_film_is_one_line_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    busy = tmp_path / "busy.mp4"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=960x720:rate=25:duration=20",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        busy,
    )
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "epcli",
            "inspect",
            busy,
            *ASK[2:],
            "--max-frames",
            "4",
            "-q",
            "--video",
            out / "kept.mp4",
        ],
        cwd=place,
        env=os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not names(out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert names(out) == [f".kept.mp4.{process.pid}.part.mp4"]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: ffmpeg is told too
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "ep: interrupted\n")
    assert names(out) == []
