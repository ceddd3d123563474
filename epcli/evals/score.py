"""Score a model on a question set: JSONL of {"media", "question", "accept", "reject"?, "type"?, "answer"?}.

`accept` is a regular expression that a true answer matches and `reject` one that it may not, case ignored; media paths
are relative to the set. Each file is decoded and encoded once for all its questions. A question that could not be asked
counts as failed, never as a wrong answer. Results are appended a line a question, so that a run can be taken up again.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epcli.config import Profile
from epcli.errors import EpError, UsageError

SCHEMA = 1


@dataclass(frozen=True)
class Item:
    """One question of a set."""

    key: str  # line number in the set
    media: Path
    question: str
    accept: str
    reject: str
    type: str
    answer: str  # a true answer in words, for the majority baseline; may be empty

    def judge(self, answer: str) -> bool:
        """Whether a free answer is true."""
        flags = re.IGNORECASE | re.DOTALL
        return bool(re.search(self.accept, answer, flags)) and not (
            self.reject and re.search(self.reject, answer, flags)
        )


def read_set(path: Path, limit: int | None = None) -> list[Item]:
    """Raises UsageError naming the line that is not a question."""
    items = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give a JSONL file of questions") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            for pattern in (row["accept"], row.get("reject") or ""):
                re.compile(pattern)
            media = path.parent / row["media"]
            item = Item(
                str(number),
                media,
                row["question"],
                row["accept"],
                row.get("reject") or "",
                row.get("type", "all"),
                row.get("answer", ""),
            )
        except (ValueError, KeyError, TypeError, re.error) as error:
            raise UsageError(
                f"{path.name}: line {number} is not a question ({type(error).__name__}: {error}); "
                "it needs media, question and accept"
            ) from None
        items.append(item)
    if not items:
        raise UsageError(f"{path.name}: no questions in it")
    return items[:limit] if limit else items


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


def majority(items: Sequence[Item]) -> dict[str, float]:
    """Accuracy of always giving, for each type, the one true answer that is right most often."""
    by_type: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_type[item.type].append(item)
    table = {}
    for kind, members in by_type.items():
        answers = {m.answer for m in members if m.answer}
        best = max((sum(m.judge(a) for m in members) for a in answers), default=0)
        table[kind] = best / len(members)
    table["all"] = sum(table[i.type] for i in items) / len(items)
    return table


def blind(items: Sequence[Item], seed: int = 0) -> list[Item]:
    """The same questions, each about the media of another file: what can be answered without looking or listening."""
    files = sorted({i.media for i in items})
    shift = random.Random(seed).randrange(1, len(files)) if len(files) > 1 else 0
    other = dict(zip(files, files[shift:] + files[:shift], strict=True))
    return [Item(i.key, other[i.media], i.question, i.accept, i.reject, i.type, i.answer) for i in items]


def run(
    items: Sequence[Item],
    profile: Profile,
    out: Path | None,
    on_row: Callable[[dict[str, Any], int], None] | None = None,
) -> list[dict[str, Any]]:
    """Ask every question; rows already in `out` are not asked again. Returns all rows."""
    from epcli.pipeline import Session  # torch loads here

    rows: dict[str, dict[str, Any]] = {}
    if out is not None and out.exists():
        for line in out.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the line at which an earlier run was killed
                continue
            if "error" not in row:
                rows[row["key"]] = row
    session = Session(profile)
    by_media: dict[Path, list[Item]] = defaultdict(list)
    for item in items:
        if item.key not in rows:
            by_media[item.media].append(item)
    for media, members in by_media.items():
        for row in _ask_about(session, media, members):
            rows[row["key"]] = row
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if on_row:
                on_row(row, len(rows))
    wanted = {i.key for i in items}
    return [r for k, r in rows.items() if k in wanted]


def _ask_about(session: Any, media: Path, members: Sequence[Item]) -> Iterable[dict[str, Any]]:
    looked = None
    for item in members:
        row: dict[str, Any] = {"key": item.key, "media": str(media), "type": item.type, "question": item.question}
        try:
            looked = looked or session.look(media)
            report = session.ask(looked, item.question)
        except EpError as error:
            yield {**row, "error": str(error)}
            continue
        tokens = {m: report.tokens[m] for m in ("video", "audio")}
        yield {
            **row,
            "answer": report.answer,
            "right": item.judge(report.answer),
            "tokens": tokens,
            "seconds": report.timings_s,
        }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The JSON of `ep eval --json`."""
    asked = [r for r in rows if "error" not in r]
    by_type: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in asked:
        by_type[row["type"]].append(row)

    def score(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
        right = [bool(r["right"]) for r in members]
        low, high = ci95(right, [r["media"] for r in members])
        return {"accuracy": sum(right) / len(right), "n": len(right), "ci95": [low, high]}

    def share(modality: str) -> float | None:
        total = sum(r["tokens"][modality]["total"] for r in asked)
        return sum(r["tokens"][modality]["kept"] for r in asked) / total if total else None

    whole = score(asked) if asked else {"accuracy": None, "n": 0, "ci95": [None, None]}
    return {
        "schema": SCHEMA,
        **whole,
        "failed": len(rows) - len(asked),
        "by_type": {kind: score(members) for kind, members in sorted(by_type.items())},
        "kept_share": {"video": share("video"), "audio": share("audio")},
    }
