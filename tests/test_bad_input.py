"""Every kind of bad input, given to the real program: one line, its exit code, no traceback, nothing left behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_omni

from epcli.media import ffmpeg

TONE, PICTURE = "sine=frequency=440:duration=2", "testsrc=duration=2:size=160x128:rate=5"


def make(path: Path, *inputs: str) -> None:
    """A film or sound of two seconds."""
    given = [word for each in inputs for word in ("-f", "lavfi", "-i", each)]
    subprocess.run([ffmpeg.find().path, "-v", "error", *given, "-bitexact", str(path)], check=True)


def film(folder: Path) -> None:
    make(folder / "film.mp4", PICTURE, TONE)


def truncated(folder: Path) -> None:
    """An mp4 that lost its end, and with it its index."""
    film(folder)
    path = folder / "film.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(folder: Path) -> None:
    (folder / "film.mp4").write_text("This is not a film.\n" * 100)


def huge_model(folder: Path) -> None:
    """A whole checkpoint that needs more memory than any machine has. Its file is all holes and takes no disk."""
    film(folder)
    home, size = tiny_omni.write(folder / "huge"), 10**9
    config = json.loads((home / "config.json").read_text())
    config["thinker_config"]["text_config"]["vocab_size"] = size
    (home / "config.json").write_text(json.dumps(config))
    with (home / "model.safetensors").open("r+b") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        place = 0
        for name, facts in header.items():
            if name != "__metadata__":
                if name.endswith(("lm_head.weight", "embed_tokens.weight")):
                    facts["shape"][0] = size
                facts["data_offsets"] = [place, place := place + 4 * math.prod(facts["shape"])]
        text = json.dumps(header).encode()
        file.seek(0)
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)


def nothing(folder: Path) -> None:
    pass


def wrong_key(folder: Path) -> None:
    film(folder)
    (folder / "mine.yaml").write_text("keeep: 0.1\n")


Case = tuple[Callable[[Path], None], list[str], int, str]
CASES: dict[str, Case] = {
    "no such file": (nothing, [], 4, "film.mp4: no such file"),
    "not media": (text, [], 4, "film.mp4: "),
    "truncated": (truncated, [], 4, "film.mp4: "),
    "no audio": (
        lambda folder: make(folder / "film.mp4", PICTURE),
        ["--no-video"],
        4,
        "has picture but no sound, and picture is switched off",
    ),
    "no video": (
        lambda folder: make(folder / "film.mp4", TONE),
        ["--no-audio"],
        4,
        "has sound but no picture, and sound is switched off",
    ),
    "zero length": (lambda folder: (folder / "film.mp4").touch(), [], 4, "film.mp4: the file is empty"),
    "wrong range": (film, ["--start", "1:00"], 4, "a start at 1:00 is past the end; the file is 0:02 long"),
    "unknown profile key": (
        wrong_key,
        ["--profile", "mine.yaml"],
        2,
        "mine.yaml: keeep: unknown key, did you mean keep?",
    ),
    "no memory": (huge_model, ["--model", "huge"], 6, "GB, and host memory has"),
    "no weights": (film, ["--model", "qwen2.5-omni-7b"], 5, "run `ep models pull qwen2.5-omni-7b`"),
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nobody's settings, an empty cache, no hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("EP_", "HF_"))}
    home = {"XDG_CONFIG_HOME": "xdg", "HF_HOME": "hf", "HF_HUB_CACHE": "hf/hub", "EP_CACHE_DIR": "features"}
    return kept | {key: str(tmp_path / value) for key, value in home.items()} | {"OMP_NUM_THREADS": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "epcli", "ask", "film.mp4", "What do you hear?", *arguments]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_with_its_exit_code_and_leaves_nothing(
    name: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    prepare, arguments, code, message = CASES[name]
    folder = tmp_path / "work"
    folder.mkdir()
    prepare(folder)
    before = sorted(folder.rglob("*"))
    run = subprocess.run(command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert run.stderr.startswith("ep: error: "), run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    assert message in run.stderr
    assert run.stdout == ""
    assert run.returncode == code
    assert sorted(folder.rglob("*")) == before
    assert not list((tmp_path / "features").rglob("*.safetensors")), "features of a file that could not be used"


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_killed_half_way_it_leaves_nothing_and_the_next_run_works(
    stop: signal.Signals, tmp_path: Path, environment: dict[str, str]
) -> None:
    film(tmp_path)
    before = sorted(each.name for each in tmp_path.iterdir())
    for seconds in (0.5, 1.0, 2.0, 4.0):  # starting, loading, looking
        process = subprocess.Popen(
            command(), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(seconds)
        process.send_signal(stop)
        stdout, stderr = process.communicate(timeout=60)
        if stdout.endswith("\n"):  # a fast machine had answered, and was closing down if not done
            assert process.returncode in (0, 130, -stop)
            assert "Traceback" not in stderr
            break
        if (
            process.returncode in (1, -stop)
            and stop == signal.SIGINT
            and "/epcli/" not in stderr
            and ("<frozen" in stderr or seconds < 1)
        ):
            assert seconds < 4, stderr  # a slow machine was still starting Python itself, which says so in its own way
            continue
        assert (process.returncode, stderr) == ((130, "ep: interrupted\n") if stop == signal.SIGINT else (-stop, ""))
    left = {each.name for each in tmp_path.iterdir()} - {*before, "features", "xdg", "hf"}
    assert not left
    run = subprocess.run(
        command("--max-new-tokens", "2", "-q"), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
