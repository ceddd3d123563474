"""Ledger and output: one row a job, whatever ends the process between any two steps."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from epcli.batch.jobs import FileJobs
from epcli.batch.ledger import Ledger, path_of, states
from epcli.batch.output import Output
from epcli.errors import EpError, UsageError
from epcli.questions.record import Question

SETTINGS = {"model": "ep-smol", "keep": None, "threads": 1}
STAMP = (1, 2, 3, 4)


def jobs(count: int = 3, *questions: str) -> list[FileJobs]:
    asked = tuple(Question(text) for text in questions or ("What?",))
    return [FileJobs(Path(f"/m/{number}.mp4"), asked) for number in range(count)]


def row(media: str, question: str = "What?", status: str = "done", **more: Any) -> dict[str, Any]:
    answer = "A piano." if status == "done" else None
    report = {"answer": answer, "tokens": {"keep_ratio": 0.2}, "media": {"duration_s": 1.5}} if answer else None
    fields = {"error": None if answer else "broken", "warnings": [], "finished": "2026-01-01T00:00:00+00:00"}
    return {"media": media, "question": question, "status": status, "answer": answer, "report": report} | fields | more


def finish_all(ledger: Ledger, output: Output, planned: list[FileJobs]) -> None:
    for task in list(ledger.tasks(planned)):
        ledger.begin(task)
        for job in task.jobs:
            line = ledger.finish(task.media, job, row(str(task.media), job.question.text), STAMP, "abc")
            assert line is not None
            output.append(line)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_job_has_one_row_however_often_it_is_finished(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r.jsonl", SETTINGS) as ledger:
        ledger.add(jobs(1))
        ledger.add(jobs(1))
        (task,) = ledger.tasks(jobs(1))
        ledger.begin(task)
        assert ledger.finish(task.media, task.jobs[0], row("/m/0.mp4"), STAMP, None) is not None
        assert ledger.finish(task.media, task.jobs[0], row("/m/0.mp4", status="failed"), STAMP, None) is None
        assert [json.loads(line)["status"] for line in ledger.rows()] == ["done"]
        assert list(ledger.tasks(jobs(1))) == []


def test_what_ran_when_the_process_ended_is_pending_again_and_comes_last(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    with Ledger(out, SETTINGS) as ledger:
        ledger.add(jobs(3))
        ledger.begin(next(ledger.tasks(jobs(3))))
        assert ledger.count(jobs(3)) == {"pending": 2, "running": 1, "done": 0, "failed": 0}
    with Ledger(out, SETTINGS) as ledger:
        assert [task.media.name for task in ledger.tasks(jobs(3))] == ["1.mp4", "2.mp4", "0.mp4"]


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
from test_batch_ledger import *
out = Path({out!r})
with Ledger(out, SETTINGS) as ledger:
    output = Output(out)
    planned = jobs(3)
    ledger.add(planned)
    output.begin(ledger)
    tasks = list(ledger.tasks(planned))
    output.append(ledger.finish(tasks[0].media, tasks[0].jobs[0], row("/m/0.mp4"), STAMP, None))
    line = ledger.finish(tasks[1].media, tasks[1].jobs[0], row("/m/1.mp4"), STAMP, None)
    output._lines.write(line.encode()[:{written}])
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("written", [0, 1, 40])
def test_a_kill_between_ledger_and_output_loses_nothing_and_repeats_nothing(tmp_path: Path, written: int) -> None:
    out = tmp_path / "r.jsonl"
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(out), written=written)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    output, planned = Output(out), jobs(3)
    with Ledger(out, SETTINGS) as ledger:  # the lock went with the process
        output.begin(ledger)
        assert [line["media"] for line in lines(out)] == ["/m/0.mp4", "/m/1.mp4"]
        finish_all(ledger, output, planned)
        output.end(ledger)
    assert [line["media"] for line in lines(out)] == ["/m/0.mp4", "/m/1.mp4", "/m/2.mp4"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],  # the last line's end
        lambda text: text[:-30],
        lambda text: "",
        lambda text: text + '{"half',
        lambda text: text + text.splitlines(True)[0],  # a line twice
        lambda text: text.replace("piano", "violin", 1),
        lambda text: "".join(text.splitlines(True)[1:]),
        None,  # the file is gone
    ],
)
def test_the_output_is_brought_back_to_what_the_ledger_says(tmp_path: Path, damage: Any) -> None:
    out = tmp_path / "r.jsonl"
    with Ledger(out, SETTINGS) as ledger:
        output = Output(out)
        ledger.add(jobs(3))
        output.begin(ledger)
        finish_all(ledger, output, jobs(3))
        output.end(ledger)
    good = out.read_text()
    assert len(lines(out)) == 3
    out.unlink() if damage is None else out.write_text(damage(good))
    with Ledger(out, SETTINGS) as ledger:
        output.begin(ledger)
        output.close()
    assert out.read_text() == good
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("r.ledger")) == ["r.jsonl"]


def test_a_forgotten_row_leaves_the_output(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    with Ledger(out, SETTINGS) as ledger:
        output = Output(out)
        ledger.add(jobs(3))
        output.begin(ledger)
        finish_all(ledger, output, jobs(3))
        assert ledger.forget(Path("/m/1.mp4"), "failed") == 0
        assert ledger.forget(Path("/m/1.mp4")) == 1
        output.begin(ledger)
        assert [line["media"] for line in lines(out)] == ["/m/0.mp4", "/m/2.mp4"]
        finish_all(ledger, output, jobs(3))
        output.end(ledger)
    assert [line["media"] for line in lines(out)] == ["/m/0.mp4", "/m/2.mp4", "/m/1.mp4"]


def test_csv_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    for name in ("r.jsonl", "r.csv", "r.parquet"):
        with Ledger(tmp_path / name, SETTINGS) as ledger:  # one ledger: the second and third ask nothing
            output = Output(tmp_path / name)
            ledger.add(jobs(2, "What?", "Why, then?\nSay."))
            output.begin(ledger)
            finish_all(ledger, output, jobs(2, "What?", "Why, then?\nSay."))
            output.end(ledger)
    expected = [(line["media"], line["question"], line["answer"], 0.2) for line in lines(tmp_path / "r.jsonl")]
    assert len(expected) == 4
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(r["media"], r["question"], r["answer"], float(r["keep_ratio"])) for r in table] == expected
    table = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [(r["media"], r["question"], r["answer"], r["keep_ratio"]) for r in table] == expected
    assert json.loads(table[0]["report"])["media"] == {"duration_s": 1.5}


def test_an_empty_batch_has_empty_tables(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    for name in ("r.csv", "r.parquet"):
        with Ledger(tmp_path / name, SETTINGS) as ledger:
            Output(tmp_path / name).end(ledger)
    assert (tmp_path / "r.csv").read_text().startswith("media,question,")
    assert pq.read_table(tmp_path / "r.parquet").num_rows == 0


def test_a_name_that_is_not_utf8_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    media = Path(os.fsdecode(b"/m/caf\xe9.mp4"))
    planned = [FileJobs(media, (Question("Où?"),))]
    for name in ("r.jsonl", "r.csv", "r.parquet"):
        with Ledger(tmp_path / name, SETTINGS) as ledger:
            output = Output(tmp_path / name)
            ledger.add(planned)
            output.begin(ledger)
            finish_all(ledger, output, planned)
            output.end(ledger)
    (line,) = lines(tmp_path / "r.jsonl")
    assert os.fsencode(line["media"]) == b"/m/caf\xe9.mp4"
    assert "caf\\udce9" in (tmp_path / "r.csv").read_text(encoding="utf-8")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    with Ledger(out, SETTINGS):
        with pytest.raises(EpError, match=rf"is being written by another `ep batch` \(process {os.getpid()} on "):
            Ledger(out, SETTINGS)
        code = (
            f"from pathlib import Path; from epcli.batch.ledger import Ledger; Ledger(Path({str(out)!r}), {SETTINGS!r}"
        )
        waiting = subprocess.Popen([sys.executable, "-c", f"{code}, wait=True).close(); print('in')"], stdout=-1)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.0)
    assert waiting.communicate(timeout=60)[0] == b"in\n"


def test_rows_of_different_settings_do_not_mix(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    Ledger(out, SETTINGS).close()
    Ledger(out, SETTINGS | {"threads": 8}).close()  # how fast makes no difference
    with pytest.raises(UsageError, match=r"was begun with keep not set, and now it is 0\.2"):
        Ledger(out, SETTINGS | {"keep": 0.2})


def test_an_output_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    out.write_text("precious\n")
    with pytest.raises(UsageError, match="no ledger of `ep batch` lies beside it"):
        Ledger(out, SETTINGS)
    assert out.read_text() == "precious\n"
    for name in ("r.txt", "r"):
        with pytest.raises(UsageError, match=r"a name that ends in \.jsonl, \.csv or \.parquet"):
            Output(tmp_path / name)


def test_a_damaged_ledger_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    path_of(out).write_bytes(b"not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(EpError, match=r"r\.ledger\.sqlite: the ledger cannot be used"):
        Ledger(out, SETTINGS)
    with pytest.raises(EpError, match="the ledger cannot be read"):
        states(out)


def test_the_ledger_can_be_looked_at_while_it_is_written(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    assert states(out) == {}
    with Ledger(out, SETTINGS) as ledger:
        ledger.add(jobs(2))
        ledger.begin(next(ledger.tasks(jobs(2))))
        assert list(states(out).values()) == ["running", "pending"]
        with pytest.raises(sqlite3.IntegrityError):  # a row and its state go together
            ledger._base.execute("UPDATE jobs SET state = 'done'")
