"""How fast `ep batch` is: python -m epcli.lab.bench_batch FILE... --question TEXT

Three ways to ask the same questions about the same files take turns, in an order that rotates, so that a machine that
slows down slows all of them:

    loop      `ep ask` in a shell loop: a process, and a model loaded, for every question
    serial    `ep batch` without overlap: the next file is decoded when the answers about this one are there
    overlap   `ep batch`

The feature cache is off. A ratio is worked out within each round; medians of the ratios are shown. `total` is from
start to end, with everything loaded on the way; `steady` leaves out what comes before the model is there (batch only).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from epcli.batch.jobs import FileJobs
from epcli.batch.ledger import Ledger
from epcli.batch.output import Output
from epcli.batch.run import Batch, settings
from epcli.batch.work import Worker
from epcli.config import Profile, resolve
from epcli.questions.record import Question

SCHEMA = 1
WAYS = ("loop", "serial", "overlap")


def batch(files: Sequence[Path], questions: Sequence[str], profile: Profile, overlap: bool) -> dict[str, float]:
    """Seconds of one batch, ledger and output included."""
    ready = 0.0

    def event(what: str) -> None:
        nonlocal ready
        if what == "ready" and not ready:
            ready = time.perf_counter()

    with tempfile.TemporaryDirectory(prefix="ep-bench-") as folder:
        out = Path(folder) / "r.jsonl"
        began = time.perf_counter()
        with Ledger(out, settings(profile, (None, None))) as ledger:
            jobs = [FileJobs(file.absolute(), tuple(map(Question, questions))) for file in files]
            work = Batch(ledger, Output(out), jobs)
            work.prepare()
            engine = Worker(profile, limit_s=3600.0, overlap=overlap, on_event=event)
            try:
                work.run(engine)
            finally:
                engine.close()
                work.finish()
            if work.tally.failed:
                raise SystemExit(f"{work.tally.failed} jobs failed, so the times say nothing")
        ended = time.perf_counter()
    return {"total": ended - began, "steady": ended - ready}


def loop(files: Sequence[Path], questions: Sequence[str], flags: Sequence[str]) -> dict[str, float]:
    """Seconds of `ep ask`, once a file and question."""
    began = time.perf_counter()
    for file in files:
        for question in questions:
            command = [sys.executable, "-m", "epcli", "ask", str(file), question, "--quiet", "--no-cache", *flags]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return {"total": time.perf_counter() - began}


def compare(
    files: Sequence[Path], questions: Sequence[str], rounds: int, flags: dict[str, str], ways: Sequence[str] = WAYS
) -> dict[str, Any]:
    """The JSON of this script. `flags`: settings by name, as text."""
    profile = resolve({**flags, "cache": False}).profile
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in (*ways[number % len(ways) :], *ways[: number % len(ways)]):
            if way == "loop":
                seconds = loop(files, questions, words)
            else:
                seconds = batch(files, questions, profile, overlap=way == "overlap")
            taken[way].append(seconds)
            print(f"round {number + 1}: {way} {seconds}", file=sys.stderr, flush=True)

    def ratio(slow: str, what: str) -> float | None:
        if slow not in taken or "overlap" not in taken:
            return None
        pairs = zip(taken[slow], taken["overlap"], strict=True)
        return statistics.median(one[what] / other[what] for one, other in pairs)

    return {
        "schema": SCHEMA,
        "files": len(files),
        "questions": len(questions),
        "rounds": rounds,
        "settings": flags,
        "seconds": taken,
        "overlap_over_loop": ratio("loop", "total"),
        "overlap_over_serial": ratio("serial", "total"),
        "overlap_over_serial_steady": ratio("serial", "steady"),
    }


def main() -> None:
    """Parse the command line, print the JSON."""
    parser = argparse.ArgumentParser(prog="python -m epcli.lab.bench_batch", description="How fast `ep batch` is.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--question", action="append", help="may be given several times")
    parser.add_argument("--times", type=int, default=1, help="ask about each file so often")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS), help="which of loop, serial and overlap")
    for name in ("model", "max_new_tokens", "threads", "keep", "device"):
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name)
    given = parser.parse_args()
    names = ("model", "max_new_tokens", "threads", "keep", "device")
    flags = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    with tempfile.TemporaryDirectory(prefix="ep-bench-") as folder:
        files = []
        for number in range(given.times):  # a batch asks about each path once
            for file in given.files:
                link = Path(folder) / f"{number:03}-{file.name}"
                link.symlink_to(file.absolute())
                files.append(link)
        questions = given.question or ["What do you hear?"]
        print(json.dumps(compare(files, questions, given.rounds, flags, given.ways.split(",")), indent=2))


if __name__ == "__main__":
    main()
