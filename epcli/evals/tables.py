"""Results as Markdown and CSV. Figures come from score.py; nothing is measured here."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from epcli.errors import UsageError

ENDINGS = (".md", ".csv")


def percent(value: float | None, digits: int = 1) -> str:
    """0.5 -> "50.0%"; None -> "-"."""
    return "-" if value is None or value != value else f"{100 * value:.{digits}f}%"


def interval(ci: Sequence[float | None]) -> str:
    """[0.36, 0.5] -> "36-50%"."""
    low, high = ci
    return "-" if low is None or high is None else f"{100 * low:.0f}-{100 * high:.0f}%"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [headings, [":--", *["--:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def check_summary_path(path: Path) -> None:
    """Raises UsageError for a file that is neither Markdown nor CSV, before hours of work end in it."""
    if path.suffix not in ENDINGS:
        raise UsageError(f"--summary {path}: give a file that ends in {' or '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise UsageError(f"--summary {path}: there is no folder {path.parent}")


def write_summary(path: Path, result: Mapping[str, Any], about: Mapping[str, Any], constant: float | None) -> None:
    """Write `ep eval`'s summary, whole or not at all: a line a type and one for all. Raises UsageError."""
    lines = [*result["by_type"].items(), ("all", {**result, "majority": constant})]
    if path.suffix == ".csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*about, "type", "n", "failed", "accuracy", "ci95_low", "ci95_high", "majority"])
        for kind, e in lines:
            writer.writerow([*about.values(), kind, e["n"], e["failed"], e["accuracy"], *e["ci95"], e.get("majority")])
        text = out.getvalue()
    else:
        shares = ", ".join(f"{kind} {percent(share)}" for kind, share in result["kept_share"].items())
        rows = [
            [
                kind,
                str(e["n"]),
                str(e["failed"]),
                percent(e["accuracy"]),
                interval(e["ci95"]),
                percent(e.get("majority")),
            ]
            for kind, e in lines
        ]
        head = " · ".join(f"{key} {value}" for key, value in about.items() if value is not None)
        table = markdown(["type", "n", "failed", "accuracy", "95% interval", "constant answer"], rows)
        text = f"# {about['set']}\n\n{head} · kept: {shares}\n\n{table}\n"
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"--summary {path}: cannot be written: {error.strerror}") from None
