"""The `ep` program as its users meet it: in a process of its own, by its exit code, stdout and stderr."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epcli import __version__, config

EP = str(Path(sys.executable).with_name("ep"))
HEAVY = {"torch", "transformers", "av", "numpy", "cv2"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nobody's settings but those of the test."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EP_")}
    features = {"EP_CACHE_DIR": str(tmp_path / "features")}
    return kept | features | {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "COLUMNS": "80", "OMP_NUM_THREADS": "1"}


def ep(*arguments: str, cwd: Path, env: dict[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([EP, *arguments], cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=120)


def assert_refused(run: subprocess.CompletedProcess[str], code: int, message: str) -> None:
    """One line on stderr, nothing on stdout, no traceback."""
    assert run.stderr.count("\n") == 1, run.stderr
    assert run.stderr.startswith("ep: error: "), run.stderr
    assert message in run.stderr
    assert run.stdout == ""
    assert run.returncode == code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aks"], "no such command 'aks'. Did you mean 'ask'?"),
        (["--kep"], "no such option: --kep"),
        (["models"], "missing command (see `ep models --help`)"),
        (["ask"], "missing argument 'MEDIA' (see `ep ask --help`)"),
        (["ask", "clip.mp4"], "missing argument 'QUESTION'"),
        (["ask", "clip.mp4", "What?", "else"], "unexpected extra argument"),
        (["ask", "clip.mp4", "What?", "--kep", "1"], "no such option: --kep, did you mean --keep?"),
        (["ask", "clip.mp4", "What?", "--keep"], "'--keep' requires an argument"),
        (["ask", "clip.mp4", ""], "the question is empty"),
        (["ask", "clip.mp4", "  \n"], "the question is empty"),
        (["ask", "clip.mp4", "-"], "the question is empty"),  # nothing on standard input
        (["ask", "clip.mp4", "What?", "--keep", "0"], "--keep: 0 is not a number over 0 up to 1, or auto"),
        (["ask", "clip.mp4", "What?", "--keep", "10%"], "--keep: '10%' is not a number over 0 up to 1, or auto"),
        (["ask", "clip.mp4", "What?", "--keep", "nan"], "--keep: nan is not a number over 0 up to 1, or auto"),
        (["ask", "clip.mp4", "What?", "--budget", "-5"], "--budget: -5 is not a whole number from 1 up"),
        (["ask", "clip.mp4", "What?", "--keep", ".1", "--budget", "5"], "--keep and --budget both say how much"),
        (["ask", "clip.mp4", "What?", "--fps", "-1"], "--fps: -1 is not a number over 0 up to 120"),
        (["ask", "clip.mp4", "What?", "--fps", "fast"], "--fps: 'fast' is not a number over 0 up to 120"),
        (["ask", "clip.mp4", "What?", "--max-frames", "0"], "--max-frames: 0 is not a whole number from 1 up"),
        (["ask", "clip.mp4", "What?", "--max-new-tokens", "1.5"], "--max-new-tokens: '1.5' is not a whole number"),
        (["ask", "clip.mp4", "What?", "--audio-track", "en"], "--audio-track: 'en' is not a whole number"),
        (["ask", "clip.mp4", "What?", "--temperature", "3"], "--temperature: 3 is not a number from 0 up to 2"),
        (["ask", "clip.mp4", "What?", "--device", "gpu"], "--device: 'gpu' is not one of auto, cpu, cuda, mps"),
        (["ask", "clip.mp4", "What?", "--quantize", "4"], "--quantize: '4' is not one of none, nf4, int8"),
        (["ask", "clip.mp4", "What?", "--no-video", "--no-audio"], "--no-video and --no-audio leave neither"),
        (["ask", "clip.mp4", "What?", "--start", "soon"], "--start: 'soon' is not a time"),
        (["ask", "clip.mp4", "What?", "--start", "-5"], "--start: '-5' is not a time"),
        (["ask", "clip.mp4", "What?", "--end", "1:75"], "--end: '1:75' is not a time"),
        (["ask", "clip.mp4", "What?", "--end", "0"], "--end 0 is not after the beginning"),
        (["ask", "clip.mp4", "What?", "--start", "1:00", "--end", "30"], "--end 30 is not after --start 1:00"),
        (["plan", "clip.mp4", "--start", "1:00", "--end", "30"], "--end 30 is not after --start 1:00"),
        (["ask", "clip.mp4", "What?", "--profile", "gpu-9gb"], "unknown profile 'gpu-9gb', did you mean gpu-8gb?"),
        (["ask", "clip.mp4", "What?", "--profile", "./my.yaml"], "./my.yaml: there is no such file"),
        (["ask", "clip.mp4", "What?", "--model", "ep-small"], "ep-small"),
        (["models", "show", "ep-small"], "ep-small"),
        (["models", "pull", "../ep-smol"], "../ep-smol"),
        (["models", "rm", ""], "no model named ''"),
        (["profiles", "show", "nothing"], "unknown profile 'nothing'; there are: default, cpu, gpu-8gb"),
        (["profiles", "validate", "gpu-9gb"], "unknown profile 'gpu-9gb', did you mean gpu-8gb?"),
        (["profiles", "validate", "./mine.yaml"], "./mine.yaml: there is no such file"),
        (["ask", "clip.mp4", "What?", "--selector", "cs3"], "--selector: 'cs3' is not one of cs2, cs2-per-modality"),
        (["ask", "clip.mp4", "What?", "--max-pixels", "9"], "--max-pixels: 9 is not a whole number from 784 up"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    assert_refused(ep(*arguments, cwd=tmp_path, env=environment), 2, message)


def test_a_file_whose_name_begins_with_a_dash_is_told_how_to_name(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "-k.mp4").touch()
    message = "no such option: -k; write ./-k.mp4 for the file of that name"
    assert_refused(ep("ask", "-k.mp4", "What?", cwd=tmp_path, env=environment), 2, message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kep: 0.1\n", "ep.yaml: kep: unknown key, did you mean keep?"),
        ("fps: quick\n", "ep.yaml: fps: 'quick' is not a number over 0 up to 120"),
        ("fps: [\n", "ep.yaml: not valid YAML: "),
    ],
)
def test_a_wrong_project_file_is_named(text: str, message: str, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "ep.yaml").write_text(text)
    assert_refused(ep("ask", "clip.mp4", "What?", cwd=tmp_path, env=environment), 2, message)


@pytest.mark.slow
def test_an_unexpected_error_is_one_line_and_debug_shows_the_traceback(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    # A package of this name in front of ours breaks an import in the middle of a command.
    (tmp_path / "yaml.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "ep.yaml").write_text("seed: 1\n")
    environment["PYTHONPATH"] = str(tmp_path)
    run = ep("profiles", "show", cwd=tmp_path, env=environment)
    assert_refused(run, 1, "unexpected RuntimeError: two lines (run again with --debug for the traceback)")
    run = ep("--debug", "profiles", "show", cwd=tmp_path, env=environment)
    assert "Traceback (most recent call last)" in run.stderr
    assert run.stderr.endswith("ep: error: unexpected RuntimeError: two lines\n")
    assert run.returncode == 1


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error_worth_a_line(tmp_path: Path, environment: dict[str, str]) -> None:
    run = subprocess.run(
        ["bash", "-c", f"'{EP}' profiles show | true; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.stderr == ""
    assert run.returncode in (0, 1)  # 0 where the pipe took it all before its reader went


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["ask", "--help"]])
def test_help_is_on_stdout_at_80_columns_with_examples(
    arguments: list[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    run = ep(*arguments, cwd=tmp_path, env=environment)
    assert run.returncode == 0
    assert run.stderr == ""
    assert "\x1b" not in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert re.search(r"Examples:\n\n    ep ask ", run.stdout)


@pytest.mark.slow
def test_the_flags_of_ask_are_grouped(tmp_path: Path, environment: dict[str, str]) -> None:
    page = ep("ask", "--help", cwd=tmp_path, env=environment).stdout
    headings = re.findall(r"^([A-Z][\w ]+):$", page, re.MULTILINE)
    assert headings == ["Arguments", "What to look at", "Answer", "Tokens", "Machine", "Output", "Options"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ask", "chat"])
def test_every_setting_has_a_flag_that_tells_its_meaning(
    command: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    page = " ".join(ep(command, "--help", cwd=tmp_path, env=environment).stdout.split())
    for key, limits in config.SETTINGS.items():
        assert f"--{key.replace('_', '-')}" in page
        assert limits.meaning in page


def test_the_version_is_on_stdout(tmp_path: Path, environment: dict[str, str]) -> None:
    assert ep("--version", cwd=tmp_path, env=environment).stdout == f"ep {__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--help"], ["ask", "--help"], ["profiles", "list"], ["profiles", "show"], ["models", "list"]]
)
def test_looking_around_loads_no_model_library(
    arguments: list[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    program = (
        "import atexit, sys; from epcli.cli import main; "
        "atexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr)); "
        f"sys.argv = ['ep', *{arguments!r}]; main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    loaded = set(run.stderr.rpartition("LOADED ")[2].split())
    assert "epcli.config" in loaded  # it did run
    assert not HEAVY & loaded
    if arguments[0] != "models":  # rich costs more than all the rest of these
        assert "rich" not in loaded


@pytest.mark.parametrize(
    "when",
    [
        "sys.meta_path.insert(0, type('Finder', (), {'find_spec': lambda self, *_: os.kill(os.getpid(), 2)})())",
        "from epcli import cli; cli.app = lambda *_, **__: exec('os.kill(os.getpid(), 2); time.sleep(9)')",
    ],
    ids=["while it is read in", "within the text of an exec"],
)
def test_an_interrupt_is_one_line_and_130_from_the_first_import_on(
    when: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    program = f"import os, sys, time; from epcli import __main__; {when}; __main__.main()"
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "ep: interrupted\n")


def test_profiles_show_tells_where_each_setting_comes_from(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "ep.yaml").write_text("fps: 0.5\nsystem: 'No: answer\n  briefly # please'\n")
    environment["EP_SEED"] = "9"
    run = ep("profiles", "show", "gpu-8gb", cwd=tmp_path, env=environment)
    lines = {line.split(":")[0]: line for line in run.stdout.splitlines()}
    assert re.fullmatch(r"fps: 0\.5 +# ep\.yaml", lines["fps"])
    assert re.fullmatch(r"seed: 9 +# EP_SEED", lines["seed"])
    assert re.fullmatch(r"keep: 0\.1 +# profile gpu-8gb", lines["keep"])
    assert re.fullmatch(r"audio: true +# default", lines["audio"])


@pytest.mark.slow
def test_what_profiles_show_prints_is_a_profile(tmp_path: Path, environment: dict[str, str]) -> None:
    environment |= {"EP_SYSTEM": "No: 'answer' # briefly", "EP_KEEP": "0.25"}
    first = ep("profiles", "show", "gpu-16gb", cwd=tmp_path, env=environment).stdout
    (tmp_path / "mine.yaml").write_text(first)
    del environment["EP_SYSTEM"], environment["EP_KEEP"]
    second = ep("profiles", "show", "mine.yaml", cwd=tmp_path, env=environment).stdout

    def settings(text: str) -> list[str]:
        return [line.rpartition("  #")[0].rstrip() for line in text.splitlines()]

    assert settings(first)[1:] == settings(second)[1:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kep: 0.1", "mine.yaml: kep: unknown key, did you mean keep?"),
        ("seed: 1\nfps: quick", "mine.yaml: fps: 'quick' is not a number over 0 up to 120"),
        ("keep: 1.5", "mine.yaml: keep: 1.5 is not a number over 0 up to 1, or auto"),
        ("keep: 0.5\nbudget: 9", "mine.yaml: keep and mine.yaml: budget both say how much to keep"),
        ("selector: best", "mine.yaml: selector: 'best' is not one of cs2, "),
        ("model: ep-small", "mine.yaml: model: no model named 'ep-small'"),
        ("profile: cpu", "mine.yaml: profile: unknown key"),  # a profile stands on no other
        ("fps: {", "mine.yaml: not valid YAML: line 2: "),
    ],
)
def test_validate_names_file_key_and_what_is_allowed(
    text: str, message: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "mine.yaml").write_text(text + "\n")
    assert_refused(ep("profiles", "validate", "mine.yaml", cwd=tmp_path, env=environment), 2, message)


@pytest.mark.slow
def test_validate_says_ok_to_what_can_be_used(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "mine.yaml").write_text("keep: 0.5\nmodel: ep-smol\n")
    (tmp_path / "ep.yaml").write_text("profile: mine.yaml\nseed: 3\n")
    for arguments, said in [
        (["mine.yaml"], "ok: mine.yaml, 2 settings\n"),
        (["ep.yaml"], "ok: ep.yaml, 1 setting\n"),
        ([], "ok: profile mine.yaml and what is set on top of it\n"),
        (["gpu-8gb"], f"ok: {config.find_profile('gpu-8gb')}, 5 settings\n"),
    ]:
        run = ep("profiles", "validate", *arguments, cwd=tmp_path, env=environment | {"HOME": str(tmp_path)})
        assert (run.stdout, run.stderr, run.returncode) == (said, "", 0)
    environment["EP_KEEP"] = "7"
    assert_refused(ep("profiles", "validate", cwd=tmp_path, env=environment), 2, "EP_KEEP: 7 is not a number over 0")


@pytest.mark.slow
def test_models_tells_what_is_here_and_removes_it(tmp_path: Path, environment: dict[str, str]) -> None:
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    part = tmp_path / "cache" / "epcli" / "models" / "parts" / "half.bin"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(2000))
    listed = ep("models", "list", cwd=tmp_path, env=environment)
    assert ep("models", "ls", cwd=tmp_path, env=environment).stdout == listed.stdout
    assert listed.stdout.startswith("ep-smol: not downloaded (188 MB)\n")
    assert max(map(len, listed.stdout.splitlines())) <= 80
    shown = ep("models", "show", "ep-smol", cwd=tmp_path, env=environment)
    assert "licence     Apache-2.0" in shown.stdout
    assert str(part.parent.parent) in shown.stdout
    removed = ep("models", "rm", "ep-smol", cwd=tmp_path, env=environment)
    assert removed.stderr == "ep-smol: 2 kB freed\n"
    assert not part.exists()
    again = ep("models", "rm", "ep-smol", cwd=tmp_path, env=environment)
    assert again.stderr == "ep-smol: nothing was downloaded\n"


@pytest.mark.slow
def test_the_doctor_finds_a_wrong_setting_and_goes_on(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "ep.yaml").write_text("kep: 1\n")
    run = ep("doctor", cwd=tmp_path, env=environment)
    lines = run.stdout.splitlines()
    assert "problem  ep.yaml: kep: unknown key, did you mean keep?; `ep profiles show` lists all keys" in lines
    for what in (
        "python ",
        "torch ",
        "transformers ",
        "bitsandbytes ",
        "cpu: ",
        "cuda",
        "ffmpeg ",
        "video codecs: h264",
        "ep-smol: ",
        "cache: ",
    ):
        assert any(line[9:].startswith(what) for line in lines), what
    assert all(line.startswith(("ok       ", "problem  ")) for line in lines)
    assert run.stderr == ""
    assert run.returncode == 1


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a test picture and a tone."""
    from epcli.media import ffmpeg

    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    picture, tone = "testsrc=duration=2:size=160x128:rate=5", "sine=frequency=440:duration=2"
    command = [ffmpeg.find().path, "-v", "error", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone, str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.mp4", "nothing.mp4: no such file"),
        ("folder", "folder: is a directory"),
        ("empty.mp4", "empty.mp4: the file is empty"),
        ("two\nlines.mp4", "no such file"),
    ],
)
def test_a_file_that_is_no_media_file_is_exit_code_4(
    name: str, message: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.mp4").touch()
    assert_refused(ep("ask", name, "What?", cwd=tmp_path, env=environment), 4, message)


@pytest.mark.slow
def test_a_file_without_the_track_asked_for_is_exit_code_4(clip: Path, environment: dict[str, str]) -> None:
    run = ep("ask", clip.name, "What?", "--audio-track", "3", cwd=clip.parent, env=environment)
    assert_refused(run, 4, "clip.mp4: has no audio track 3")


@pytest.mark.slow
class TestAsk:
    """With the real model; its words are not what is tested here."""

    def test_the_answer_is_on_stdout_and_the_figures_on_stderr(self, clip: Path, environment: dict[str, str]) -> None:
        run = ep("ask", clip.name, "What do you hear?", "--max-new-tokens", "6", cwd=clip.parent, env=environment)
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip()
        assert run.stdout.count("\n") == 1
        assert "\x1b" not in run.stderr
        for word in ("tokens", "video", "audio", "prefill", "total", "first token after", "peak memory"):
            assert word in run.stderr
        assert "Warning" not in run.stderr  # of a library

    def test_json_is_one_object_and_the_same_answer(self, clip: Path, environment: dict[str, str]) -> None:
        arguments = ["--max-new-tokens", "6", "--seed", "3", "--no-video"]
        spoken = ep("ask", clip.name, "What do you hear?", *arguments, "-q", cwd=clip.parent, env=environment)
        run = ep(
            "ask", clip.name, "-", *arguments, "--json", cwd=clip.parent, env=environment, stdin="What do you hear?\n"
        )
        body = json.loads(run.stdout)
        assert body["schema"] == 1
        assert body["question"] == "What do you hear?"
        assert body["answer"] == spoken.stdout.strip()
        assert body["settings"]["seed"] == 3
        assert body["tokens"]["video"]["total"] == 0
        assert body["generated_tokens"] <= 6
        assert run.stderr == ""
        assert spoken.stderr == ""

    def test_a_name_with_a_dash_in_front_and_not_utf8_is_read(self, clip: Path, environment: dict[str, str]) -> None:
        odd = os.fsencode(clip.parent) + b"/-caf\xe9.mp4"
        Path(os.fsdecode(odd)).write_bytes(clip.read_bytes())
        arguments: list[str | bytes] = [
            "ask",
            "--json",
            "--no-video",
            "--max-new-tokens",
            "1",
            "--",
            b"-caf\xe9.mp4",
            "What?",
        ]
        run = subprocess.run([EP, *arguments], cwd=clip.parent, env=environment, capture_output=True, check=True)
        assert json.loads(run.stdout)["media"]["path"].endswith("-caf\udce9.mp4")

    def test_an_interrupt_ends_with_130_and_one_line(self, clip: Path, environment: dict[str, str]) -> None:
        process = subprocess.Popen(
            [EP, "ask", clip.name, "What?"],
            cwd=clip.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(2.0)  # in the middle of loading
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert stderr == "ep: interrupted\n"
        assert process.returncode == 130

    def test_a_settings_file_that_acts_unasked_is_named(self, clip: Path, environment: dict[str, str]) -> None:
        (clip.parent / "ep.yaml").write_text("max_new_tokens: 2\nvideo: false\n")
        try:
            run = ep("ask", clip.name, "What?", cwd=clip.parent, env=environment)
        finally:
            (clip.parent / "ep.yaml").unlink()
        assert "ep: video, max_new_tokens set by ep.yaml in this folder\n" in run.stderr
        assert run.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_under_the_output_is_one_line(tmp_path, environment):
    with open("/dev/full", "w") as full:
        run = subprocess.run([EP, "profiles", "list"], env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[0] == "ep: error: the output: no space left to write it"


def test_a_bar_shows_loading_on_a_terminal_only(capsys, monkeypatch):
    from epcli.cli.screen import Screen

    for terminal, quiet, shown in ((True, False, True), (False, False, False), (True, True, False)):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        screen = Screen(quiet=quiet, json=False)
        screen.stage("load")
        screen.progress(0.5)
        screen.close()
        output = capsys.readouterr()
        assert output.out == ""
        assert ("50%" in output.err) is shown
