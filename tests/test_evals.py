"""Scoring a question set: lines, resuming, intervals, baselines, summaries."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import media_samples
import numpy as np
import pytest
import soundfile
import tiny_omni
from typer.testing import CliRunner

from epcli.cli import app
from epcli.config import Profile
from epcli.errors import UsageError, WeightsError
from epcli.evals import score, tables
from epcli.questions.record import Choice, Exact, Pattern, Question
from epcli.questions.sets import read_set

FAST = {"device": "cpu", "dtype": "fp32", "max_new_tokens": 2, "fps": 1.0, "max_frames": 2, "keep": 0.2}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("model") / "tiny", sieve=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A set about a film, a picture with a sound, and a file that is damaged."""
    film = media_samples.shared_film("evals.mp4", length=2)
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(film.read_bytes()[:500])
    cv2.imwrite(str(tmp_path / "still.png"), np.full((56, 84, 3), 120, np.uint8))
    soundfile.write(tmp_path / "sound.wav", 0.3 * np.sin(np.arange(32000) / 6), 16000)
    rows = [
        {"media": "film.mp4", "question": "What is heard?", "accept": "", "type": "hear"},
        {"media": "broken.mp4", "question": "What is heard?", "accept": "", "type": "hear"},
        {"media": "film.mp4", "question": "What is seen?", "accept": "(?!)", "type": "see"},
        {"media": "still.png", "sound": "sound.wav", "question": "And here?", "accept": "", "type": "both"},
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def profile(model: Path, **changes) -> Profile:
    return Profile(model=str(model), **(FAST | changes))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_line_a_question_and_what_failed_is_in_no_figure(folder, model):
    out = folder / "out.jsonl"
    rows = score.score(read_set(folder), profile(model), out)
    assert lines(out) == sorted(rows, key=lambda row: [r["key"] for r in lines(out)].index(row["key"]))
    by_key = {row["key"]: row for row in rows}
    assert [by_key[k].get("right") for k in "1234"] == [True, None, False, True]
    assert "broken.mp4" in by_key["2"]["error"]
    assert "answer" not in by_key["2"]
    result = score.summary(rows)
    assert list(result) == ["schema", "accuracy", "n", "failed", "ci95", "by_type", "kept_share"]
    assert (result["schema"], result["n"], result["failed"]) == (1, 3, 1)
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["by_type"]["hear"] == {
        "accuracy": 1.0,
        "n": 1,
        "ci95": [pytest.approx(0.2065, abs=1e-3), 1.0],
        "failed": 1,
    }
    kept = sum(by_key[k]["tokens"][m]["kept"] for k in "134" for m in ("video", "audio"))
    total = sum(by_key[k]["tokens"][m]["total"] for k in "134" for m in ("video", "audio"))
    assert 0.2 <= kept / total < 0.25
    assert set(result["kept_share"]) == {"video", "audio"}
    pair = by_key["4"]
    assert pair["sound"].endswith("sound.wav")
    assert pair["tokens"]["audio"]["total"] == 50  # 2 s of sound
    assert pair["tokens"]["video"]["total"] == 9 * 14  # one picture, enlarged to 252 x 392


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_asks_again_what_failed(folder, model):
    out = folder / "out.jsonl"
    score.score(read_set(folder), profile(model), out)
    first = out.read_text().splitlines()
    out.write_text("\n".join([*first[:2], first[2][:40]]))  # cut off in the middle of a line
    asked = []
    (folder / "broken.mp4").write_bytes((folder / "film.mp4").read_bytes())
    rows = score.score(read_set(folder), profile(model), out, on_row=lambda row, done: asked.append(row["key"]))
    assert all("error" not in row for row in rows)
    assert len(asked) == 4 - sum("error" not in json.loads(line) for line in first[:2])
    assert sorted(row["key"] for row in lines(out)) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("what", ["keep", "set", "weights"])
def test_another_runs_answers_are_never_taken(folder, model, tmp_path, what):
    out = folder / "out.jsonl"
    score.ResultsFile(out, score.Run.of(read_set(folder), profile(model))).add({"key": "1", "answer": "x"})
    before = out.read_text()
    chosen, message = profile(model), "the questions, the weights or a setting have changed"
    if what == "keep":
        chosen, message = profile(model, keep=0.5), r"keep 0\.2, now 0\.5"
    elif what == "set":
        questions = folder / "questions.jsonl"
        questions.write_text(questions.read_text().replace("And here?", "And there?"))
    else:
        own = tmp_path / "own.safetensors"
        own.write_bytes(b"1")
        out.unlink()
        score.ResultsFile(out, score.Run.of(read_set(folder), profile(own))).add({"key": "1"})
        before = out.read_text()
        own.write_bytes(b"22")
        chosen = profile(own)
    with pytest.raises(UsageError, match=rf"out\.jsonl: holds the answers of another run \({message}\); give another"):
        score.score(read_set(folder), chosen, out)
    assert out.read_text() == before


def test_a_file_of_something_else_is_not_written_to(folder, model):
    (folder / "notes.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UsageError, match="holds something else"):
        score.score(read_set(folder), profile(model), folder / "notes.jsonl")
    assert (folder / "notes.jsonl").read_text() == '{"a": 1}\n'


def test_a_model_that_is_not_there_ends_the_run(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    with pytest.raises(WeightsError):
        score.score(read_set(folder), profile(empty), folder / "out.jsonl")
    assert not lines(folder / "out.jsonl")


def item(key: str, rule, kind: str = "all", media: str = "a", problem: str = "") -> Question:
    return Question("?", Path(media), key, rule=rule, type=kind, cluster=media, problem=problem)


def test_blind_questions_meet_another_file_each():
    items = [item(str(i), Pattern("x"), media=name) for i, name in enumerate("aabbcc")]
    moved = score.exchanged(items)
    assert all(a.media != b.media for a, b in zip(items, moved, strict=True))
    assert {m.media for m in moved} == {i.media for i in items}
    assert [m.key for m in moved] == [i.key for i in items]


def test_the_best_constant_answer_by_type():
    options = ("x", "y")
    items = [
        item("1", Pattern("^yes", answer="Yes."), "q?"),
        item("2", Pattern("^no", answer="No."), "q?"),
        item("3", Pattern("^no", answer="No."), "q?"),
        item("4", Choice(options, 1), "letter"),
        item("5", Choice(options, 1), "letter"),
        item("6", Exact("two"), "count"),
        item("7", Exact("one"), "count", problem="no answer"),
    ]
    table = score.majority(items)
    assert table == {"q?": pytest.approx(2 / 3), "letter": 1.0, "count": 1.0, "all": pytest.approx(5 / 6)}


def test_an_interval_knows_that_questions_about_one_file_are_no_new_files():
    right = [True, False] * 50
    apart, together = score.ci95(right, range(100)), score.ci95(right, [i % 2 for i in range(100)])
    assert apart == pytest.approx((0.4015, 0.5985), abs=0.002)  # binomial
    assert together == (0.0, 1.0)  # two clusters, one always right, one never
    low, high = score.ci95([True] * 20, range(20))
    assert (round(low, 3), high) == (0.839, 1.0)  # Wilson


@pytest.mark.slow
def test_the_command_prints_the_object_and_tells_failures_by_its_exit_code(folder, model, monkeypatch):
    monkeypatch.chdir(folder)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in FAST.items() if k in ("max_new_tokens", "fps", "keep")]
    command = ["eval", str(folder), "--model", str(model), *flags, "--summary", "table.md", "--json"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 3, run.output
    result = json.loads(run.stdout)
    assert (result["n"], result["failed"]) == (3, 1)
    assert result["by_type"]["see"]["majority"] == 0
    assert "ep: question 2: broken.mp4" in run.stderr
    assert "| all | 3 | 1 | 66.7% |" in (folder / "table.md").read_text()
    run = CliRunner().invoke(app, [*command[:-3], "--limit", "1", "--summary", "table.csv"])
    assert run.exit_code == 0, run.output
    assert "100.0%" in run.stdout
    head, row, _ = csv.reader((folder / "table.csv").read_text().splitlines())
    assert dict(zip(head, row, strict=True))["accuracy"] == "1.0"


def test_a_summary_that_could_not_be_written_is_refused_before_the_work(tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.md or \.csv"):
        tables.check_summary_path(tmp_path / "table.txt")
    with pytest.raises(UsageError, match="there is no folder"):
        tables.check_summary_path(tmp_path / "x" / "table.md")
