"""Score a model on a question set, a line of JSON a question, and sum the lines up.

Each file is decoded and encoded once for all its questions. A question that could not be asked, or cannot be scored,
counts as failed, never as a wrong or empty answer. A run that was stopped goes on where it stopped: answers are
appended as they come, each with the fingerprint of the run that gave it, and those of another run are never taken.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from epcli.config import DECIDING, Profile
from epcli.errors import EpError, UsageError
from epcli.questions.record import Question, by_files
from epcli.questions.sets import QuestionSet
from epcli.text import visible_json

SCHEMA = 1
Row = dict[str, Any]


# --- Running --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a line of results belongs to: a set, a model and its settings."""

    about: Mapping[str, Any]  # shown in each line, for people and for the message about a mismatch
    fingerprint: str

    @classmethod
    def of(cls, questions: QuestionSet, profile: Profile, *, blind: bool = False, **more: Any) -> Run:
        """`more`: whatever else tells this run from others."""
        settings = {name: getattr(profile, name) for name in DECIDING}
        about = {"set": questions.name, "model": profile.model, "selector": profile.selector, "keep": profile.keep}
        about |= {"blind": True} if blind else {}
        items = [[i.key, i.files[0].name, i.text, asdict(i.rule), i.type] for i in questions.questions]  # type: ignore[call-overload]
        own = Path(os.path.expanduser(profile.model))
        weights = [own.stat().st_size, own.stat().st_mtime_ns] if own.is_file() else []  # trained again: another model
        whole = json.dumps([items, settings, blind, weights, more], sort_keys=True, default=str)
        return cls(about, hashlib.sha256(whole.encode()).hexdigest()[:16])


class ResultsFile:
    """The file of results, one JSON object a line: what earlier runs finished, and a place to add."""

    def __init__(self, path: Path | None, run: Run) -> None:
        """Raises UsageError if the file holds another run's results, or cannot be read or written.

        Lines of failed questions, which are asked again, and a line that was cut off are taken out of the file.
        """
        self.path, self.run = path, run
        self.rows: dict[str, Row] = {}
        if path is None:
            return
        self.rows = {row["key"]: row for row in self.lines(path, run) if "error" not in row}
        try:
            partial = path.with_name(f".{path.name}.part")
            partial.write_text("".join(_line(row) for row in self.rows.values()), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; give another file for the results") from None

    @classmethod
    def lines(cls, path: Path, run: Run) -> list[Row]:
        """What the file holds, failures too; nothing if there is none. Raises UsageError as above."""
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise UsageError(f"{path}: {reason}; give another file for the results") from None
        found = []
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the line at which an earlier run was killed
                continue
            _check(path, row, run)
            found.append(row)
        return found

    def add(self, row: Row) -> Row:
        """Append a line, with what it belongs to, and return it."""
        whole = {"key": row["key"], "run": self.run.fingerprint, **self.run.about, **row}
        self.rows[whole["key"]] = whole
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(whole))
        return whole


def _check(path: Path, row: Any, run: Run) -> None:
    if isinstance(row, dict) and row.get("run") == run.fingerprint and "key" in row:
        return
    if not isinstance(row, dict) or "run" not in row:
        raise UsageError(f"{path}: holds something else than results of `ep eval`; give another --out")
    differ = [f"{name} {row.get(name)}, now {value}" for name, value in run.about.items() if row.get(name) != value]
    why = "; ".join(differ) or "the questions, the weights or a setting have changed"
    raise UsageError(f"{path}: holds the answers of another run ({why}); give another --out, or delete it")


def _line(row: Row) -> str:
    return visible_json(json.dumps(row, ensure_ascii=False)) + "\n"


def score(
    questions: QuestionSet,
    profile: Profile,
    out: Path | None = None,
    *,
    limit: int | None = None,
    blind: bool = False,
    on_row: Callable[[Row, int], None] = lambda row, done: None,
    on_progress: Callable[[float], None] | None = None,
) -> list[Row]:
    """Ask every question, or the first `limit`; those answered in `out` are not asked again. Returns all lines.

    Raises UsageError for a file of another run, and what loading the model raises; whatever goes wrong with a question
    is told in its line.
    """
    from epcli.session.session import Session  # torch loads here

    results = ResultsFile(out, Run.of(questions, profile, blind=blind))
    items = [*(exchanged(questions.questions) if blind else questions.questions)][:limit]
    session = Session(profile, on_progress=on_progress)
    todo = [item for item in items if item.key not in results.rows]
    if any(not item.problem for item in todo):
        session.load()  # weights that are missing are no question's fault
    for members in by_files(todo):
        for row in _ask_about(session, members):
            on_row(results.add(row), len(results.rows))
    return [results.rows[item.key] for item in items]


def exchanged(items: Sequence[Question], seed: int = 0) -> list[Question]:
    """The same questions, each about another's media: what can be answered without looking or listening."""
    files = sorted({i.files for i in items}, key=str)
    shift = random.Random(seed).randrange(1, len(files)) if len(files) > 1 else 0
    other = dict(zip(files, files[shift:] + files[:shift], strict=True))
    return [replace(i, media=other[i.files][0], sound=other[i.files][1]) for i in items]


def described(item: Question) -> Row:
    """What a line says of its question."""
    row: Row = {"key": item.key, "media": str(item.media), "type": item.type, "cluster": item.cluster}
    if item.sound is not None:
        row["sound"] = str(item.sound)
    if item.needs:
        row["needs"] = item.needs
    return {**row, "question": item.text}


def failure(error: Exception) -> str:
    """One line about what went wrong."""
    return str(error) if isinstance(error, EpError) else f"unexpected {type(error).__name__}: {error}"


def _ask_about(session: Any, members: Sequence[Question]) -> Iterable[Row]:
    looked = None
    for item in members:
        row = described(item)
        if item.problem:
            yield {**row, "error": item.problem}
            continue
        try:
            if looked is None:
                looked = item.look(session)
            report = session.ask(looked, item.text)
            looked = looked.again()
        except Exception as error:  # one bad file must not end a run of hours
            yield {**row, "error": failure(error)}
            continue
        yield {
            **row,
            "answer": report.answer,
            "right": item.judge(report.answer),
            **item.reading(report.answer),
            "selected_by": report.selector,
            "tokens": {m: asdict(report.tokens.of(m)) for m in ("video", "audio")},
            "seconds": asdict(report.timings_s),
        }


# --- Summing up -----------------------------------------------------------------------------------


def ci95(right: Sequence[bool], clusters: Sequence[Any]) -> tuple[float, float]:
    """95% interval of a share whose items come in clusters (the questions about one file): cluster-robust normal.

    With every item right or wrong the interval is Wilson's, on the number of clusters.
    """
    n = len(right)
    mean = sum(right) / n
    sums: dict[Any, float] = defaultdict(float)
    for value, cluster in zip(right, clusters, strict=True):
        sums[cluster] += value - mean
    g = len(sums)
    if mean in (0.0, 1.0) or g < 2:
        z2 = 1.96**2
        centre, spread = (
            (mean + z2 / (2 * g)) / (1 + z2 / g),
            1.96 * math.sqrt(mean * (1 - mean) / g + z2 / (4 * g * g)) / (1 + z2 / g),
        )
        return max(0.0, centre - spread), min(1.0, centre + spread)
    error = math.sqrt(g / (g - 1) * sum(s * s for s in sums.values())) / n
    return max(0.0, mean - 1.96 * error), min(1.0, mean + 1.96 * error)


def majority(items: Sequence[Question]) -> dict[str, float]:
    """Accuracy of always giving, for each type, the one true answer that is right most often; and under "all"."""
    by_type: dict[str, list[Question]] = defaultdict(list)
    for item in items:
        if not item.problem:
            by_type[item.type].append(item)
    table = {}
    for kind, members in by_type.items():
        answers = {constant for m in members if m.rule for constant in m.rule.constants}
        best = max((sum(m.judge(a) for m in members) for a in answers), default=0)
        table[kind] = best / len(members)
    known = sum(len(members) for members in by_type.values())
    return table | {"all": sum(table[k] * len(m) for k, m in by_type.items()) / known if known else math.nan}


def accuracy(rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy, number and interval of rows that were answered; None where there are none."""
    if not rows:
        return {"accuracy": None, "n": 0, "ci95": [None, None]}
    right = [bool(r["right"]) for r in rows]
    low, high = ci95(right, [r["cluster"] for r in rows])
    return {"accuracy": sum(right) / len(right), "n": len(right), "ci95": [low, high]}


def kept_share(rows: Sequence[Row], modality: str) -> float | None:
    """Kept tokens over all tokens of a modality, summed over rows; None if there are none."""
    total = sum(r["tokens"][modality]["total"] for r in rows)
    return sum(r["tokens"][modality]["kept"] for r in rows) / total if total else None


def answered(rows: Iterable[Row]) -> list[Row]:
    """The rows that are no failures."""
    return [row for row in rows if "error" not in row]


def summary(rows: Sequence[Row], constant: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The JSON of `ep eval --json`. `constant`: the best constant answer's accuracy, by type."""
    asked = answered(rows)
    whole = accuracy(asked)
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row["type"]].append(row)
    by_type = {}
    for kind, members in sorted(kinds.items()):
        counted = answered(members)
        entry = {**accuracy(counted), "failed": len(members) - len(counted)}
        by_type[kind] = entry | ({} if constant is None else {"majority": constant.get(kind)})
    return {
        "schema": SCHEMA,
        "accuracy": whole["accuracy"],
        "n": whole["n"],
        "failed": len(rows) - len(asked),
        "ci95": whole["ci95"],
        "by_type": by_type,
        "kept_share": {"video": kept_share(asked, "video"), "audio": kept_share(asked, "audio")},
    }
