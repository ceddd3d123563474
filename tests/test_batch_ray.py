"""The Ray engine on a real cluster of this machine."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import batch_samples
import pytest

from epcli.batch.jobs import FileJobs
from epcli.batch.ledger import Ledger
from epcli.batch.output import Output
from epcli.batch.run import Batch, settings
from epcli.errors import UsageError
from epcli.questions.record import Question

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'epcli[ray]'")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A new one-machine cluster with two CPUs, whatever the machine has, and no address to find another by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        here = str(Path(__file__).parent.parent)
        patch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
        _start()
        try:
            yield
        finally:
            ray.shutdown()


def _start() -> None:
    for last in (False, False, True):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                num_gpus=0,
                object_store_memory=100_000_000,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception:  # Ray gives its own start 30 s, which a busy machine may not keep
            ray.shutdown()
            if last:
                raise


@pytest.mark.parametrize("ship", [False, True], ids=["shared storage", "shipped"])
def test_two_workers_one_of_them_killed_leave_one_row_a_job(cluster: None, tmp_path: Path, ship: bool) -> None:
    from epcli.batch.ray_engine import RayEngine

    clips, out = tmp_path / "clips", tmp_path / "r.jsonl"
    count, questions = (8, ("What?",)) if ship else (24, ("What?", "Why?"))
    paths, broken = batch_samples.fill(clips, count, broken=1)
    profile = batch_samples.profile()
    jobs = [FileJobs(path, tuple(Question(text) for text in questions)) for path in paths]
    lost: list[str] = []

    def kill_one(row: dict[str, Any]) -> None:
        """Half-way, the worker that has just answered."""
        if not ship and not lost and batch.tally.answered_now >= count * len(questions) // 3 and row["report"]:
            lost.append(row["worker"])
            os.kill(int(row["worker"].rpartition(":")[2]), signal.SIGKILL)

    with Ledger(out, settings(profile, (None, None))) as ledger:
        batch = Batch(ledger, Output(out), jobs, on_row=kill_one)
        batch.prepare()
        engine = RayEngine(profile, limit_s=600.0, workers=2, ship=ship)
        try:
            batch.run(engine)
        finally:
            engine.close()
            batch.finish()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert Counter((row["media"], row["question"]) for row in rows) == Counter(
        (str(path), question) for path in paths for question in questions
    )
    for row in rows:
        assert (row["status"] == "failed") == (Path(row["media"]).name in broken), row
        if row["report"]:
            assert row["report"]["media"]["path"] == row["media"]
    workers = {row["worker"] for row in rows if row["report"]}
    if not ship:
        assert len(lost) == 1
        assert len(workers) >= 2, "one worker did it all"
    assert ray.is_initialized(), "a cluster that was there before is left as it was"

    with Ledger(
        out, settings(profile, (None, None))
    ) as ledger:  # the same ledger: nothing is left, not even what was sent
        batch = Batch(ledger, Output(out), jobs)
        batch.prepare()
        assert (batch.tally.pending, batch.tally.changed) == (0, 0)


def test_a_cluster_without_gpus_gives_none(cluster: None) -> None:
    from epcli.batch.ray_engine import RayEngine

    with pytest.raises(UsageError, match=r"--gpus-per-worker 0\.5: the cluster has 0 GPUs"):
        RayEngine(batch_samples.profile(), limit_s=1.0, gpus=0.5)
    with pytest.raises(UsageError, match="run `ep batch` on a machine of the cluster"):
        RayEngine(batch_samples.profile(), limit_s=1.0, address="ray://head:10001")
