"""`ep batch` at work: real files, real processes, a tiny model."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import batch_samples
import media_samples as samples
import psutil
import pytest
import tiny_omni
from test_cli import environment, ep  # noqa: F401

from epcli.batch.jobs import FileJobs, Search, find
from epcli.batch.ledger import Job, Ledger, Task
from epcli.batch.output import Output
from epcli.batch.run import Batch
from epcli.batch.watch import Watch
from epcli.batch.work import Outcome, Worker, smaller
from epcli.questions.record import Question

SLOW = pytest.mark.slow
EP = [sys.executable, "-c", "from epcli.cli import main; main()"]


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that a batch starts remember digests; not among the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


# --- The worker -------------------------------------------------------------------------------------


def task(media: Path, *questions: str) -> Task:
    return Task(media, tuple(Job(number, Question(text)) for number, text in enumerate(questions or ("What?",), 1)))


def answers(worker: Worker, *steps: tuple[Task, Callable[[], None]]) -> dict[str, list[Outcome]]:
    """Outcomes by file name. What stands beside a task happens just before the worker takes it."""
    left = list(steps)

    def take() -> Task | None:
        if not left:
            return None
        given, before = left.pop(0)
        before()
        return given

    found: dict[str, list[Outcome]] = {}
    for outcome in worker.process(take):
        found.setdefault(outcome.media.name, []).append(outcome)
    return found


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(batch_samples.profile(), limit_s=600.0)
    yield made
    below = psutil.Process().children(recursive=True)
    made.close()
    assert not made.folder.exists()
    assert not [each for each in below if each.is_running() and "batch" in each.name()]


@SLOW
def test_what_hangs_or_crashes_fails_alone(worker: Worker, tmp_path: Path) -> None:
    a, b, c, d, e = (batch_samples.copy(tmp_path / f"{name}.mp4", number) for number, name in enumerate("abcde"))
    broken, pipe = tmp_path / "broken.mp4", tmp_path / "pipe.mp4"
    broken.write_bytes(a.read_bytes()[:500])
    os.mkfifo(pipe)

    def nothing() -> None:
        pass

    def send(which: str, number: int, limit_s: float = 600.0) -> Callable[[], None]:
        def now() -> None:
            worker.limit_s = limit_s
            child = getattr(worker, which)
            os.kill(child.process.pid, number)

        return now

    def patient() -> None:
        worker.limit_s = 600.0

    # The two processes are stopped or killed from outside, as a hang or the system's memory killer would.
    found = answers(
        worker,
        (task(a, "What?", "Why?"), nothing),
        (task(broken), nothing),
        (task(pipe), nothing),
        (task(b, "What?", "Why?"), send("_reader", signal.SIGKILL)),  # decoded again by a new reader
        (task(c), send("_reader", signal.SIGSTOP, 1.0)),  # hangs
        (task(d), patient),
    )
    assert [len(found[name]) for name in ("a.mp4", "b.mp4", "d.mp4")] == [2, 2, 1]
    for name in ("a.mp4", "b.mp4", "d.mp4"):
        assert all(outcome.failure is None and outcome.report for outcome in found[name]), name
    assert "not a media file, or damaged" in found["broken.mp4"][0].failure.message
    assert "is not a regular file" in found["pipe.mp4"][0].failure.message
    assert "reading it took longer than 1 s; --timeout" in found["c.mp4"][0].failure.message

    found = answers(
        worker,
        (task(a, "What?"), send("_model", signal.SIGKILL)),  # answered by a new model process, with nothing less
        (task(b), nothing),
    )
    assert [found[name][0].warnings for name in ("a.mp4", "b.mp4")] == [(), ()]
    assert found["a.mp4"][0].report["answer"] == answers_of(found["a.mp4"])[0]

    found = answers(
        worker,
        (task(c, "What?", "Why?"), send("_model", signal.SIGSTOP, 1.0)),
        (task(e), nothing),
    )
    assert "took longer than 1 s" in found["c.mp4"][0].failure.message
    assert found["c.mp4"][0].report is None


def answers_of(outcomes: list[Outcome]) -> list[str]:
    return [outcome.report["answer"] for outcome in outcomes if outcome.report]


@SLOW
def test_what_does_not_fit_is_asked_again_with_less_and_says_so(tmp_path: Path) -> None:
    long = tmp_path / "long.mp4"
    samples.run("-f", "lavfi", "-i", "testsrc=size=320x320:rate=4:duration=8", "-pix_fmt", "yuv420p", long)
    short = tmp_path / "short.mp4"
    samples.run("-f", "lavfi", "-i", "testsrc=size=320x320:rate=4:duration=1", "-pix_fmt", "yuv420p", short)
    small = tiny_omni.copy(batch_samples.model(), tmp_path / "small")
    config = json.loads((small / "config.json").read_text())
    config["thinker_config"]["text_config"]["max_position_embeddings"] = 700  # 16 frames are 968 tokens
    (small / "config.json").write_text(json.dumps(config))
    worker = Worker(batch_samples.profile(model=str(small)), limit_s=600.0)
    try:
        found = answers(worker, (task(long, "What?", "Why?"), lambda: None), (task(short), lambda: None))
    finally:
        worker.close()
    for outcome in found["long.mp4"]:
        assert outcome.warnings == ("long.mp4: it did not fit; asked again with --max-frames 8",)
        assert outcome.report["media"]["frames"] == outcome.report["settings"]["max_frames"] == 8
    assert found["short.mp4"][0].warnings == ()
    assert found["short.mp4"][0].report["settings"]["max_frames"] is None


@pytest.mark.parametrize(
    ("settings", "frames", "flag"),
    [
        ({}, 64, "--max-frames 32"),
        ({"keep": 0.2}, 9, "--max-frames 4"),
        ({"keep": 0.2}, 0, "--keep 0.1"),  # sound alone
        ({}, 0, "--keep 0.5"),
        ({"budget": 100}, 0, "--budget 50"),
        ({"keep": 0.06}, 0, None),  # nothing left to give up
        ({"selector": "none"}, 2, None),
    ],
)
def test_less_is_half_the_frames_and_then_of_the_tokens(settings: dict[str, Any], frames: int, flag: str) -> None:
    from epcli.config import Profile

    less = smaller(Profile(**settings), frames)
    assert (less and less[1]) == flag
    if less and flag.startswith("--max-frames"):
        assert less[0].max_frames == frames // 2


# --- The command ------------------------------------------------------------------------------------


@SLOW
def test_a_folder_is_asked_once_and_only_what_changed_again(tmp_path: Path, environment: dict[str, str]) -> None:  # noqa: F811
    clips, out = tmp_path / "clips", tmp_path / "r.jsonl"
    paths, broken = batch_samples.fill(clips, 4, broken=1)
    command = batch_samples.arguments(clips, out, "-Q", "What is seen?", "-Q", "What is heard?")
    first = ep(*command, cwd=tmp_path, env=environment)
    assert first.returncode == 3, first.stderr
    assert first.stdout == ""
    assert "6 answered, 2 failed" in first.stderr
    (bad,) = broken
    assert first.stderr.count(f"{bad}: ") == 1  # a line a file, not a line a question
    made = rows(out)
    assert len({(row["media"], row["question"]) for row in made}) == len(made) == 8
    for row in made:
        assert (row["status"] == "failed") == (Path(row["media"]).name == bad)
        assert (row["report"] is None) == (row["status"] == "failed")
        if row["report"]:
            assert row["answer"] == row["report"]["answer"]
            assert row["report"]["media"]["path"] == row["media"]
            assert row["report"]["profile"].keys() == {"name", "why"}

    again = ep(*command, "--json", cwd=tmp_path, env=environment)  # nothing to do: no model is loaded
    assert json.loads(again.stdout)["done"] == 6
    assert again.returncode == 3
    assert rows(out) == made

    same = next(path for path in paths if path.name != bad)
    os.utime(same)  # touched, not changed
    changed = next(path for path in paths if path.name not in (bad, same.name))
    batch_samples.copy(changed, 99)
    third = ep(*command, "--retry-failed", "--json", cwd=tmp_path, env=environment)
    tally = json.loads(third.stdout)
    assert (tally["changed"], tally["answered_now"], tally["failed_now"]) == (1, 2, 2)
    now = rows(out)
    assert len({(row["media"], row["question"]) for row in now}) == len(now) == 8
    before = {(row["media"], row["question"]): row["content"] for row in made}
    differ = {row["media"] for row in now if row["content"] != before[row["media"], row["question"]]}
    assert differ == {str(changed)}


@pytest.mark.slow
def test_wrong_command_lines(tmp_path: Path, environment: dict[str, str]) -> None:  # noqa: F811
    clips = tmp_path / "clips"
    batch_samples.clear(clips)
    clips.mkdir()
    (clips / "a.mp4").write_bytes(b"x")
    for arguments, code, message in (
        (["clips"], 2, "nothing is asked"),
        (["-Q", "What?"], 2, "no files: give a folder"),
        (["clips", "-Q", " "], 2, "the question is empty"),
        (["nowhere", "-Q", "What?"], 4, "nowhere: there is no such file or folder"),
        (["clips", "-Q", "What?", "--include", "*.wav"], 1, "clips: no media files found"),
        (["clips", "-Q", "What?", "--out", "r.txt"], 2, "a name that ends in .jsonl, .csv or .parquet"),
        (["clips", "-Q", "What?", "--out", "no/r.jsonl"], 2, "there is no folder"),
        (["clips", "-Q", "What?", "--model", "ep-small"], 2, "no model named 'ep-small'"),
        (["clips", "-Q", "What?", "--watch", "--limit", "3"], 2, "leave out --limit"),
        (["clips", "-Q", "What?", "--ship"], 2, "go with --engine ray"),
        (["clips", "-Q", "What?", "--engine", "spark"], 2, "there are local and ray"),
        (["clips", "--questions", "none.txt"], 2, "none.txt: no such file or folder"),
    ):
        run = ep("batch", *arguments, cwd=tmp_path, env=environment)
        assert (run.returncode, run.stdout) == (code, ""), run.stderr
        assert message in run.stderr
        assert run.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "xdg") == ["clips"]


@pytest.mark.slow
def test_a_dry_run_tells_tokens_and_writes_nothing(tmp_path: Path, environment: dict[str, str]) -> None:  # noqa: F811
    clips, out = tmp_path / "clips", tmp_path / "r.jsonl"
    _, broken = batch_samples.fill(clips, 4, broken=1)
    command = batch_samples.arguments(clips, out, "-Q", "What?", "-Q", "Why?", "--dry-run")
    run = ep(*command, "--json", cwd=tmp_path, env=environment)
    made = json.loads(run.stdout)
    assert run.returncode == 0
    assert (made["files"], made["jobs"], made["to_ask"], made["files_to_look_at"]) == (4, 8, 8, 3)
    assert [Path(name).name for name, _ in made["unreadable"]] == list(broken)
    assert made["duration_s"] == pytest.approx(1.5, abs=0.2)
    assert made["tokens"]["video"]["total"] > 0
    text = ep(*command, "--limit", "2", cwd=tmp_path, env=environment).stdout
    assert text.startswith("2 files, 4 questions: 0 done, 0 failed before, 4 to ask\n")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "xdg") == ["clips"]


@SLOW
def test_ctrl_c_keeps_what_is_done_and_watch_takes_what_arrives(tmp_path: Path, environment: dict[str, str]) -> None:  # noqa: F811
    clips, out = tmp_path / "clips", tmp_path / "r.csv"
    clips.mkdir()
    elsewhere = batch_samples.copy(tmp_path / "elsewhere.mp4", 1)
    os.utime(elsewhere, (time.time() - 60, time.time() - 60))
    command = batch_samples.arguments(clips, out, "-Q", "What?", "--watch")
    run = subprocess.Popen([*EP, *command], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        from epcli.batch.ledger import path_of, states

        wait_until(lambda: path_of(out).exists() and run.poll() is None)
        elsewhere.rename(clips / "moved.mp4")
        wait_until(lambda: "done" in states(out).values())
        (clips / "bad.mp4").write_bytes(b"not yet")  # complete by its looks, and broken
        wait_until(lambda: "failed" in states(out).values())
        batch_samples.copy(clips / "bad.mp4", 2)  # now it is
        wait_until(lambda: list(states(out).values()) == ["done", "done"])
        children = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130
    assert said.endswith("ep: interrupted\n")
    assert "ep: 2 answered, 1 failed in " in said  # in this run; the failure's row has gone
    with out.open(newline="") as file:
        assert len(list(csv.reader(file))) == 3  # the head and two rows
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def wait_until(true: Callable[[], bool], timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def test_a_file_is_taken_when_it_is_complete(tmp_path: Path) -> None:
    given: list[str] = []
    with Ledger(tmp_path / "r.jsonl", {}) as ledger:
        batch = Batch(ledger, Output(tmp_path / "r.jsonl"), [])
        batch.prepare()

        def plan(files: list[Path]) -> list[FileJobs]:
            given.extend(path.name for path in files)
            return [FileJobs(path, (Question("What?"),)) for path in files]

        folder = tmp_path / "clips"
        folder.mkdir()
        watch = Watch(batch, lambda: find([folder], Search()), plan, settle_s=0.5, every_s=0.0)
        (folder / "old.mp4").write_bytes(b"moved here")
        os.utime(folder / "old.mp4", (1e9, 1e9))
        with (folder / "growing.mp4").open("wb", buffering=0) as file:
            for _ in range(4):
                file.write(b"more")
                watch.look()
                time.sleep(0.2)
        assert given == ["old.mp4"]
        deadline = time.monotonic() + 30
        while len(given) < 2 and time.monotonic() < deadline:
            watch.look()
            time.sleep(0.05)
        assert given == ["old.mp4", "growing.mp4"]
        watch.look()
        assert len(given) == 2  # once
        assert batch.waiting == 2
