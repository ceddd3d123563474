"""A long run in small: many files, some broken, and a process that is killed again and again.

The suite runs 60 files and 3 kills. The whole of it, 500 files and 10 kills:

    pytest tests/test_batch_soak.py --soak-files 500 --soak-kills 10 -s
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import batch_samples
import psutil
import pytest

from epcli.batch.ledger import states

QUESTIONS = ("What is seen?", "What is heard?")
PATIENCE_S = 3600.0


class Run:
    """One `ep batch` in a process of its own, watched from outside."""

    def __init__(self, command: list[str], folder: Path, env: dict[str, str]) -> None:
        self.errors = folder / "stderr.txt"
        with self.errors.open("ab") as file:
            code = "from epcli.cli import main; main()"
            self.process = subprocess.Popen([sys.executable, "-c", code, *command], cwd=folder, env=env, stderr=file)
        self.rss: list[tuple[int, int]] = []  # rows, bytes of the process and all below it

    def below(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return []

    def sample(self, rows: int) -> None:
        total = 0
        for process in [psutil.Process(self.process.pid), *self.below()]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        self.rss.append((rows, total))


def lines(out: Path) -> list[dict[str, Any]]:
    """The whole lines that are there; a killed process may leave the last one cut off."""
    if not out.exists():
        return []
    whole, _, _ = out.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


def count_of(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EP_")}
    homes = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return kept | homes | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}


@pytest.mark.slow
def test_every_job_ends_with_one_row_whatever_is_killed(
    tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    count, kills = request.config.getoption("--soak-files"), request.config.getoption("--soak-kills")
    clips, out = tmp_path / "clips", tmp_path / "r.jsonl"
    paths, broken = batch_samples.fill(clips, count, broken=max(2, count // 20))
    command = batch_samples.arguments(clips, out, *(word for each in QUESTIONS for word in ("-Q", each)))
    jobs, chance, killed, began = count * len(QUESTIONS), random.Random(1), 0, time.monotonic()
    seen: set[tuple[str, str]] = set()
    run = Run(command, tmp_path, environment)
    while killed < kills:
        goal = len(seen) + chance.randrange(1, max(2, (jobs - len(seen)) // (kills - killed + 1)))
        while count_of(out) < goal and run.process.poll() is None:
            assert time.monotonic() - began < PATIENCE_S
            time.sleep(0.05)
        assert run.process.poll() is None, f"it ended before it was killed: {run.errors.read_text()}"
        time.sleep(chance.random() * 0.3)
        below = run.below()
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
        killed += 1
        _, alive = psutil.wait_procs(below, timeout=60)
        assert not alive, "what it had started went on without it"
        rows = lines(out)
        now = {(row["media"], row["question"]) for row in rows}
        assert len(now) == len(rows), "a job has two rows"
        assert seen <= now, "a row was lost"
        done_in_ledger = sum(state in ("done", "failed") for state in states(out).values())
        assert 0 <= done_in_ledger - len(rows) <= 1, "at most the last row waits in the ledger for its line"
        seen = now
        run = Run(command, tmp_path, environment)
    while run.process.poll() is None:
        assert time.monotonic() - began < PATIENCE_S
        run.sample(count_of(out))
        time.sleep(0.5)

    said = run.errors.read_text()
    assert run.process.returncode == 3, said  # some failed, as they should
    rows = lines(out)
    assert out.read_bytes().endswith(b"\n")
    wanted = Counter((str(path), question) for path in paths for question in QUESTIONS)
    assert Counter((row["media"], row["question"]) for row in rows) == wanted
    for row in rows:
        failed = Path(row["media"]).name in broken
        assert (row["status"] == "failed") == failed, row
        assert bool(row["error"]) == failed
        assert (row["report"] is None) == failed
    assert set(states(out).values()) == {"done", "failed"}
    assert not list(tmp_path.glob("ep-batch-*")), "a temporary folder was left"

    memory = _settled(run.rss)
    print(
        f"\nsoak: {count} files, {jobs} jobs, {len(broken) * len(QUESTIONS)} failed as they should, {killed} kills, "
        f"{time.monotonic() - began:.0f} s; memory {memory}"
    )
    if count >= 200:  # long enough for a leak to show
        assert memory["late_mb"] < 1.1 * memory["early_mb"], memory


def _settled(samples: list[tuple[int, int]]) -> dict[str, float]:
    """Median memory of the second and of the last quarter of the last run's rows, in MB."""
    if len(samples) < 8:
        return {"early_mb": 0.0, "late_mb": 0.0}
    first, last = samples[0][0], samples[-1][0]

    def median(low: float, high: float) -> float:
        inside = sorted(
            rss for rows, rss in samples if first + low * (last - first) <= rows <= first + high * (last - first)
        )
        return inside[len(inside) // 2] / 1e6 if inside else 0.0

    return {"early_mb": round(median(0.25, 0.5)), "late_mb": round(median(0.75, 1.0))}
