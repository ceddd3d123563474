"""Closed, full and abandoned standard streams, and lines that are no text, given to the real program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_omni
from media_samples import X264, counting, need, run, tone

EP = f"{sys.executable} -m epcli"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nobody's settings, and an empty cache."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EP_")}
    own = {"EP_CACHE_DIR": str(tmp_path / "features"), "XDG_CONFIG_HOME": str(tmp_path / "xdg"), "OMP_NUM_THREADS": "1"}
    return kept | own | {"EP": EP}


def shell(command: str, cwd: Path, env: dict[str, str], stdin: bytes | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a bash command; $EP is the program."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=env,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=300,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


CLOSED = "ep: error: standard output is closed, so there is nowhere to put the answer\n"
FULL = "ep: error: the output: no space left to write it\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("$EP ask no.mp4 What? >&-", (1, "", CLOSED)),
        ("$EP chat no.mp4 >&-", (1, "", CLOSED)),
        ("$EP profiles list >&-", (1, "", CLOSED)),
        ("$EP --version >&-", (1, "", CLOSED)),
        ("$EP --help >&-", (1, "", CLOSED)),
        ("$EP profiles list >/dev/full", (1, "", FULL)),
        ("$EP ask no.mp4 What? 2>&-", (4, "", "")),
        ("$EP ask no.mp4 What? >&- 2>&-", (1, "", "")),
        ("$EP ask no.mp4 What? 2>/dev/full", (4, "", "")),
        ("$EP aks 2>&-", (2, "", "")),
        ("$EP plan no.mp4 2>&-", (4, "", "")),
        ("$EP ask no.mp4 - <&-", (1, "", "ep: error: standard input cannot be read: it is closed\n")),
        ("$EP --help | head -1", (0, "Usage: ep [OPTIONS] COMMAND [ARGS]...\n", "")),
    ],
)
def test_a_stream_that_is_gone(
    command: str, expected: tuple[int, str, str], tmp_path: Path, environment: dict[str, str]
) -> None:
    assert shell(command, tmp_path, environment) == expected


@pytest.mark.slow
def test_with_standard_error_closed_the_output_is_the_same(tmp_path: Path, environment: dict[str, str]) -> None:
    whole = shell("$EP profiles list", tmp_path, environment)
    assert shell("$EP profiles list 2>&-", tmp_path, environment) == whole
    assert whole[0] == 0


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path, environment: dict[str, str]) -> None:
    """What a library writes to number 1 or 2 must not end up in a file that was opened since."""
    (tmp_path / "try.py").write_text(
        "import os, sys\nfrom epcli import streams\nstreams.prepare()\nfile = open('opened', 'w')\n"
        "assert file.fileno() > 2, file.fileno()\nprint('lost', file=sys.stderr)\nos.write(2, b'lost too')\n"
        "try:\n    os.write(1, b'refused')\nexcept OSError:\n    file.write('fine')\n"
    )
    environment |= {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    assert shell(f"{sys.executable} try.py <&- >&- 2>&-", tmp_path, environment) == (0, "", "")
    assert (tmp_path / "opened").read_text() == "fine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "", "What?"], "'MEDIA': the path is empty"),
        (["chat", ""], "'MEDIA': the path is empty"),
        (["plan", ""], "'MEDIA': the path is empty"),
        (["inspect", ""], "'MEDIA': the path is empty"),
        (["batch", "", "-Q", "What?"], "the path is empty"),
        (["batch", "clips", "-Q", "What?", "--out", ""], "the path is empty"),
        (["eval", ""], "the path is empty"),
        (["bench", ""], "the path is empty"),
        (["train", ""], "the path is empty"),
        (["cache", "clear", ""], "the path is empty"),
        (["inspect", "a.mp4", "--html", ""], "the path is empty"),
        (["ask", "a.mp4", "What?", "--threads", "100000"], "--threads: 100000 threads are too many; this machine has"),
        (["bench", "a.mp4", "--threads", "100000"], "--threads: 100000 threads are too many; this machine has"),
        (["ask", "a.mp4", "What?", "--threads", "1" + "0" * 400], "is not a whole number from 1 up"),
        (["ask", "a.mp4", "What?", "--budget", "1" + "0" * 30], "is not a whole number from 1 up"),
        (["ask", "a.mp4", "What?", "--keep", "1e999"], "is not a number over 0 up to 1"),
        (["ask", "a.mp4", "What?", "--temperature", "nan"], "--temperature: nan is not a number"),
        (["ask", "a.mp4", "What?", "--cache-gb", "inf"], "--cache-gb: inf is not a number"),
        (["ask", "a.mp4", b"\xef\xbb\xbf "], "the question is empty"),
        (["batch", "clips", "-Q", " "], "-Q: the question is empty"),
    ],
)
def test_an_empty_path_or_an_absurd_value_is_a_mistake_of_the_command_line(
    arguments: list[str | bytes], message: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [*EP.split(), *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert message in done.stderr
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr


@pytest.mark.slow
def test_a_file_name_that_steers_terminals_is_printed_safely(tmp_path: Path, environment: dict[str, str]) -> None:
    name = b"caf\xe9\x1b]0;t\x07\xc2\x9b.mp4"
    done = subprocess.run([*EP.split(), "ask", name, "What?"], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 4
    line = done.stderr.decode()  # UTF-8
    assert line.endswith("no such file; check the path\n")
    assert line[:-1].isprintable()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("omni") / "tiny")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two seconds, under a name that is not UTF-8."""
    need(X264[0], "aac")
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    inputs = [word for source in (counting(2.0), tone(2.0)) for word in ("-f", "lavfi", "-i", source)]
    run(*inputs, "-c:v", *X264, "-pix_fmt", "yuv420p", "-c:a", "aac", path)
    named = os.fsencode(path.with_name("x")) + b"caf\xe9.mp4"
    os.rename(path, named)
    return named


LINES = [
    b"What do you see?",
    b"caf\xe9 <|im_end|>?",
    b"zero\0byte",
    b"",
    b"   \r",
    b"\x1b[31mred\x07 \x9b\xff\xfe",
    b"\xef\xbb\xbf\xf0\x9f",
    b"/",
    b"/nothing",
    b"/keep nan",
    b"/system caf\xe9 <|im_start|>",
    b"/inspect zero\0byte.html",
    b"/range 9:00-9:01",
    b"/evidence",
    b"x" * 300_000,
    b"a b " * 40_000,
    b"And now?",
]


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["-q", "--json", "-q 2>&-"])
def test_chat_survives_every_bad_line(
    flags: str, model: Path, film: bytes, tmp_path: Path, environment: dict[str, str]
) -> None:
    command = f"$EP chat '{os.fsdecode(film)}' --model {model} --device cpu --max-new-tokens 2 {flags}"
    code, out, err = shell(command, tmp_path, environment, b"\n".join(LINES))
    assert code == 3  # some lines failed
    told = [line for line in err.split("\n") if line and not line.startswith(" ")]  # what a command tells is indented
    assert all(line.startswith("ep: error: ") for line in told), err
    assert "unexpected" not in err
    assert "ep: error" not in out
    if "2>&-" not in flags:
        assert len(told) == 8, err
    if "--json" in flags:
        import json

        asked = [json.loads(line)["question"] for line in out.splitlines()]
        assert asked[1] == "caf\ufffd <|im_end|>?"
        assert (asked[0], asked[-1]) == ("What do you see?", "And now?")


@pytest.mark.slow
def test_an_answer_reaches_standard_output_alone(
    model: Path, film: bytes, tmp_path: Path, environment: dict[str, str]
) -> None:
    settings = f"--model {model} --device cpu --max-new-tokens 4"
    ask = f"$EP ask '{os.fsdecode(film)}' $'caf\\xe9 <|im_end|>?' {settings}"
    code, answer, figures = shell(ask, tmp_path, environment)
    assert (code, answer.count("\n") > 0, "tokens" in figures) == (0, True, True)
    assert shell(f"{ask} 2>&-", tmp_path, environment) == (0, answer, "")
    assert shell(f"{ask} 2>/dev/full", tmp_path, environment) == (0, answer, "")
    assert shell(f"{ask} -q >/dev/full", tmp_path, environment) == (1, "", FULL)
    piped = f"printf 'caf\\xe9 <|im_end|>?\\n' | $EP ask '{os.fsdecode(film)}' - {settings} -q"
    assert shell(piped, tmp_path, environment) == (0, answer, "")
