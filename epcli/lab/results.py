"""docs/results.md by one command: python -m epcli.lab.results SET --out RUN.jsonl --page docs/results.md

Asks the set's questions under many selectors and keep ratios (sweep.py), times the stages at each ratio on whole clips
(bench.py), and writes what came out as tables. Started again it goes on; --minutes 0 only writes the page.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from epcli.config import Profile, resolve
from epcli.errors import EpError, UsageError
from epcli.evals import score
from epcli.evals.bench import Configuration, bench_clips
from epcli.evals.score import Row, accuracy, answered, kept_share
from epcli.evals.tables import interval, markdown, percent
from epcli.files import whole
from epcli.lab import sweep
from epcli.lab.ablate import ABLATIONS
from epcli.lab.sweep import BLIND, KEEPS
from epcli.media.probe import probe
from epcli.questions.record import Pattern, Question
from epcli.questions.sets import QuestionSet, read_set
from epcli.session.session import Session
from epcli.sieve.selectors import SELECTORS

RESAMPLES = 2000
FULL = "none"
DESCRIBE = "describe"  # the type of question whose answers are searched for false names
ORDER = tuple(name for name in SELECTORS if name != FULL)
ABLATED = tuple(f"cs2/{what}" for what in ABLATIONS)
MARKS = re.compile(r"(<!-- written by python -m epcli\.lab\.results -->\n).*?(<!-- end -->)", re.DOTALL)


# --- Figures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepResult:
    """All answered rows of a sweep, by setting and question."""

    by_setting: Mapping[str, Mapping[str, Row]]  # setting -> question -> row
    failed: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> SweepResult:
        table: dict[str, dict[str, Row]] = defaultdict(dict)
        for row in answered(rows):
            table[row["setting"]][row["item"]] = row
        return cls(table, len(rows) - len(answered(rows)))

    def rows(self, setting: str, where: Callable[[Row], bool] = lambda row: True) -> list[Row]:
        return [row for row in self.by_setting.get(setting, {}).values() if where(row)]

    def paired(self, one: str, other: str) -> list[tuple[Row, Row]]:
        """The questions that both settings answered."""
        a, b = self.by_setting.get(one, {}), self.by_setting.get(other, {})
        return [(row, b[key]) for key, row in a.items() if key in b]

    def selectors(self) -> list[str]:
        there = {row["selector"] for row in self._sighted()} - {FULL}
        return [s for s in ORDER if s in there]

    def keeps(self) -> list[float]:
        return sorted({r["keep"] for r in self._sighted() if r["keep"] and r["selector"] in ORDER}, reverse=True)

    def _sighted(self) -> list[Row]:
        """The rows of questions about their own file."""
        return [row for name, rows in self.by_setting.items() if name != BLIND for row in rows.values()]


def compared(pairs: Sequence[tuple[Row, Row]], seed: int = 0) -> dict[str, Any] | None:
    """Accuracy of the first over, and minus, that of the second, with 95% intervals by a bootstrap of files.

    Whole files are drawn, so that questions about one file stay together; the pairing keeps what both find hard out of
    the interval. None without pairs, or where the second is never right.
    """
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for one, other in pairs:
        for place, value in enumerate((one["right"], other["right"], True)):
            sums[one["cluster"]][place] += bool(value)
    if not pairs or not any(other["right"] for _, other in pairs):
        return None
    table = np.array(list(sums.values()), float)
    draws = np.random.default_rng(seed).multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES)
    a, b, n = (draws @ table).T
    whole = table.sum(0)
    ratios = (a / np.maximum(b, 1))[b > 0]
    return {
        "n": len(pairs),
        "ratio": whole[0] / whole[1],
        "ratio_ci": np.quantile(ratios, [0.025, 0.975]).tolist(),
        "difference": (whole[0] - whole[1]) / whole[2],
        "difference_ci": np.quantile((a - b) / n, [0.025, 0.975]).tolist(),
    }


def evidence_kept(rows: Sequence[Row]) -> float | None:
    """Kept tokens of the modality and moment in which the answers' evidence lies, over the most that could be kept.

    Evidence can be longer than the budget: all of a picture, or of a melody. Then a budget spent on it alone is 1.
    """
    found = [row for row in rows if row.get("evidence", {}).get("total")]
    kept = [sum(tokens["kept"] for tokens in row["tokens"].values()) for row in found]
    most = sum(min(row["evidence"]["total"], n) for row, n in zip(found, kept, strict=True))
    return sum(row["evidence"]["kept"] for row in found) / most if most else None


# --- The page -------------------------------------------------------------------------------------


def page(questions: QuestionSet, rows: Sequence[Row], times: Mapping[str, Any] | None, command: str) -> str:
    """docs/results.md."""
    outcome = SweepResult.of(rows)
    items = {item.key: item for item in questions.questions}
    asked = [items[key] for key in outcome.by_setting.get(FULL, {}) if key in items]
    model = rows[0]["model"] if rows else "-"
    files = len({row["cluster"] for row in outcome.rows(FULL)})
    parts = [
        "# Results",
        f"Written by a command from its own measurements, so change the code, not this page:\n\n"
        f"```console\n$ {command}\n```",
        f"Model `{model}`, question set `{questions.name}`: {len(asked)} questions about {files} files, fewer "
        f"where a cell says n, {outcome.failed} failures. Intervals are 95%, by file ([evals.md](evals.md)). Answers "
        "come from greedy decoding, several settings in one batch; `keep` is the share of sound and picture tokens "
        "that the language model reads. `none` is the plain model on all tokens; `cs2` at 1.0 "
        "drops nothing but refines.",
        "## Accuracy",
        _accuracy(outcome),
        "## Relative to full tokens",
        "Accuracy over that of `none` on the same questions, with a paired bootstrap of files.",
        _relative(outcome),
        _against(outcome),
        "## By question type",
        _by_type(outcome, asked),
        _false_names(outcome, items),
        "## Where the tokens go",
        _shares(outcome),
        _ablations(outcome),
        "## Time and memory",
        _times(times),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cell(entry: Mapping[str, Any], usual: int | None = None) -> str:
    """ "43.0% (36-50%)", and how many where that is not the usual number."""
    if not entry["n"]:
        return "-"
    other = f", n {entry['n']}" if usual not in (None, entry["n"]) else ""
    return f"{percent(entry['accuracy'])} ({interval(entry['ci95'])}{other})"


def _grid(outcome: SweepResult, cell: Callable[[str], str]) -> str:
    keeps = outcome.keeps()
    rows = [[f"`{s}`", *(cell(f"{s}@{keep:g}") for keep in keeps)] for s in outcome.selectors()]
    return markdown(["selector", *(f"keep {keep:g}" for keep in keeps)], rows)


def _accuracy(outcome: SweepResult) -> str:
    full, blind = accuracy(outcome.rows(FULL)), accuracy(outcome.rows(BLIND))
    lines = [f"`none`, all tokens: **{_cell(full)}**, {full['n']} questions."]
    if blind["n"]:
        lines.append(f"Blind, about another file, all tokens: {_cell(blind)}, {blind['n']} questions.")
    return " ".join(lines) + "\n\n" + _grid(outcome, lambda name: _cell(accuracy(outcome.rows(name)), full["n"]))


def _relative(outcome: SweepResult) -> str:
    def cell(name: str) -> str:
        found = compared(outcome.paired(name, FULL))
        return "-" if found is None else f"{percent(found['ratio'])} ({interval(found['ratio_ci'])})"

    return _grid(outcome, cell)


def _against(outcome: SweepResult) -> str:
    """cs2 against each other selector, in points of accuracy."""
    rivals = [s for s in outcome.selectors() if s != "cs2"]
    keeps = [keep for keep in outcome.keeps() if keep < 1]
    if "cs2" not in outcome.selectors() or not rivals:
        return ""

    def cell(rival: str, keep: float) -> str:
        return _points(compared(outcome.paired(f"cs2@{keep:g}", f"{rival}@{keep:g}")))

    rows = [[f"`cs2` minus `{rival}`", *(cell(rival, keep) for keep in keeps)] for rival in rivals]
    head = "Points of accuracy on the same questions; an interval without 0 is a difference:\n\n"
    return head + markdown(["", *(f"keep {keep:g}" for keep in keeps)], rows)


def _points(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = (100 * value for value in found["difference_ci"])
    return f"{100 * found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def _by_type(outcome: SweepResult, asked: Sequence[Question]) -> str:
    constant = score.majority(asked) if asked else {}
    shown = [FULL, *(f"{s}@{k:g}" for s in ("cs2", "query-aware") for k in (0.2, 0.1, 0.05))]
    shown += [f"{s}@0.05" for s in ("random", "seats", "uniform")] + [BLIND]
    shown = [name for name in shown if name in outcome.by_setting]
    if "cs2@0.05" in shown:
        shown = [name for name in shown if not name.startswith("query-aware")]
    said = {item.key: _yes_or_no(item) for item in asked}

    def line(label: str, where: Callable[[Row], bool], best: float | None) -> list[str]:
        found = [accuracy(outcome.rows(name, where)) for name in shown]
        cells = (f"{percent(c['accuracy'], 0)} ({interval(c['ci95'])})" if c["n"] else "-" for c in found)
        return [label, str(found[0]["n"]), *cells, percent(best, 0)]

    rows = []
    for kind in sorted({row["type"] for row in outcome.rows(FULL)}):
        rows.append(line(kind, lambda row, kind=kind: row["type"] == kind, constant.get(kind)))  # type: ignore[misc]
        there = {said.get(row["item"]) for row in outcome.rows(FULL, lambda row, kind=kind: row["type"] == kind)}  # type: ignore[misc]
        if there == {"yes", "no"}:
            for word in ("yes", "no"):
                alike = lambda row, kind=kind, word=word: row["type"] == kind and said.get(row["item"]) == word  # noqa: E731
                rows.append(line(f"{kind}: {word}", alike, None))
    rows.append(line("**all**", lambda row: True, constant.get("all")))
    note = "The constant answer is the best one for each type, chosen with the answers known.\n\n"
    return note + markdown(["type", "n", *(f"`{name}`" for name in shown), "constant"], rows)


def _yes_or_no(item: Question) -> str | None:
    """Which of both the true answer is; None if it is neither, or not known."""
    found = re.match(r"(yes|no)\b", getattr(item.rule, "answer", ""), re.IGNORECASE)
    return found[1].lower() if found else None


def false_names(item: Question, answer: str) -> int:
    """How many different names an answer holds that its question rejects."""
    pattern = item.rule.reject if isinstance(item.rule, Pattern) else ""
    return len({m[0].lower() for m in re.finditer(pattern, answer, re.IGNORECASE)} if pattern else ())


def _false_names(outcome: SweepResult, items: Mapping[str, Question]) -> str:
    """How many things that are not there a description names."""
    rows = []
    for name in [FULL, *(f"{s}@{k:g}" for s in outcome.selectors() for k in outcome.keeps())]:
        some = outcome.rows(name, lambda row: row["type"] == DESCRIBE and row["item"] in items)
        counts = [false_names(items[row["item"]], row["answer"]) for row in some]
        if counts:
            rows.append(
                [f"`{name}`", str(len(counts)), f"{sum(counts) / len(counts):.2f}", str(sum(map(bool, counts)))]
            )
    if not rows:
        return ""
    head = "Names of things that are not there, in answers to questions to describe a file:\n\n"
    return head + markdown(["", "descriptions", "false names in each", "with one or more"], rows)


def _shares(outcome: SweepResult) -> str:
    needs = [n for n in ("sound", "picture", "both") if any(r.get("needs") == n for r in outcome.rows(FULL))]
    if not needs:
        return ""
    rows = []
    for selector in outcome.selectors():
        for keep in outcome.keeps():
            name = f"{selector}@{keep:g}"
            if keep == 1 or not outcome.rows(name):
                continue
            cells = []
            for need in needs:
                some = outcome.rows(name, lambda row, need=need: row.get("needs") == need)  # type: ignore[misc]
                cells += [percent(kept_share(some, "video")), percent(kept_share(some, "audio"))]
                cells.append(percent(evidence_kept(some)))
            rows.append([f"`{selector}` {keep:g}", *cells])
    head = ["", *(f"{need}: {what}" for need in needs for what in ("picture", "sound", "evidence"))]
    return (
        "Share of the picture and sound tokens that stays, by what a question needs; and, as evidence, how many of the "
        "kept tokens lie in the modality and the moment of the answer's evidence, over the most that could: 100% is a "
        "budget spent on it alone, or all of it kept.\n\n" + markdown(head, rows)
    )


def _ablations(outcome: SweepResult) -> str:
    """What the trained sieve finds with one thing taken from it."""
    rows = []
    for name in (name for one in ABLATED for name in outcome.by_setting if name.startswith(f"{one}@")):
        selector, _, keep = name.partition("@")
        paired = outcome.paired(name, f"cs2@{keep}")
        if paired:
            less, whole = ([pair[i] for pair in paired] for i in (0, 1))
            shares = [percent(evidence_kept(side)) for side in (less, whole)]
            rows.append(
                [f"`{selector}`", keep, str(len(paired)), _cell(accuracy(less)), _points(compared(paired)), *shares]
            )
    if not rows:
        return ""
    return (
        "## What the sieve leans on\n\nThe trained sieve with one thing taken from its refiner, not trained anew: "
        "`causal` attention; `no-text`, sound and picture do not see the question; `no-cross`, they do not see each "
        "other; `three-axes`, [T, H, W] positions instead of [T, H, W, T]; `depth-N`, its first layers only; "
        "`plain-states`, the language model reads what was kept as it came, not refined. Beside it the difference to, "
        "and the evidence kept by, the whole of `cs2` on the same questions.\n\n"
        + markdown(["", "keep", "n", "accuracy", "minus `cs2`", "evidence", "of `cs2`"], rows)
    )


def _times(times: Mapping[str, Any] | None) -> str:
    if not times:
        return "Not measured."
    rows = []
    spent = {stage for row in times["rows"] for stage, seconds in row["stages_s"].items() if seconds >= 0.005}
    shown = [stage for stage in times["rows"][0]["stages_s"] if stage in spent - {"total"}]
    for row in times["rows"]:
        peak = row["peak_device_bytes"] or row["peak_rss_bytes"]
        stages = {stage: row["stages_s"][stage] for stage in shown}
        rows.append(
            [
                "none" if row["keep"] is None else f"{row['keep']:g}",
                *(f"{stages[stage]:.2f}" for stage in stages),
                f"{sum(stages.values()):.2f}",
                f"{row['kv_cache_bytes'] / 1e6:.1f}",
                f"{peak / 1e6:.0f}",
            ]
        )
    setup = times["setup"]
    where = setup["chip"] or f"{setup['device']}, {setup['threads']} threads"
    return (
        f"Seconds of asking about {', '.join(setup['media'])} ({setup['dtype']}, {where}, median of "
        f"{setup['repeat']}, ratios taking turns; `ep bench` measures the same):\n\n"
        + markdown(["keep", *shown, "all", "KV cache MB", "peak MB"], rows)
        + f"\n\nPeak: {setup['peak_rss_is']}."
    )


def card(rows: Sequence[Row], questions: QuestionSet, more: str = "results.md") -> str:
    """The table by type for the lab notes: full tokens, the default share, what is constant and what is blind.

    `more`: the page beside it with all of the run.
    """
    outcome = SweepResult.of(rows)
    items = {item.key: item for item in questions.questions}
    asked = [items[key] for key in outcome.by_setting.get(FULL, {}) if key in items]
    full = accuracy(outcome.rows(FULL))
    head = f"`{questions.name}`, {full['n']} questions, all tokens: {_cell(full)}. More: [{more}]({more}).\n\n"
    return head + _by_type(outcome, asked)


def filled(text: str, block: str, path: Path) -> str:
    """A page with `block` between its marks. Raises UsageError if it has none."""
    if not MARKS.search(text):
        raise UsageError(f"{path}: lacks <!-- written by python -m epcli.lab.results --> and, below it, <!-- end -->")
    return MARKS.sub(lambda mark: f"{mark[1]}{block}\n{mark[2]}", text)


# --- The command ----------------------------------------------------------------------------------


def clips_to_time(questions: QuestionSet, count: int, seed: int = 0) -> list[Path]:
    """The longest of twelve films of the set, drawn by a seed: pruning is for long ones."""
    files = {i.files for i in questions.questions}
    films = sorted(media for media, sound in files if sound is None and media.suffix == ".mp4")
    some = random.Random(seed).sample(films, min(12, len(films)))
    return sorted(some, key=lambda path: -probe(path).duration_s)[:count]


def _look(questions: QuestionSet, profile: Profile, limit: int | None) -> None:
    """Decode and encode the files that a sweep would ask about, into the feature cache."""
    session = Session(profile)
    groups = sweep.drawn(questions, limit)
    for number, (first, *_) in enumerate(groups, 1):
        try:
            if first.sound is None:  # pairs are not cached
                session.look(first.files[0])
        except EpError as error:
            print(f"\n{error}", file=sys.stderr)
        print(f"\r{number} of {len(groups)} files", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def main(
    questions: Annotated[Path, typer.Argument(metavar="SET", help="Question set, as `ep eval` takes it.")],
    out: Annotated[Path, typer.Option(help="JSONL of answers; started again, the command goes on from it.")],
    page_path: Annotated[Path | None, typer.Option("--page", help="Write this page.", metavar="FILE")] = None,
    card_path: Annotated[
        Path | None,
        typer.Option("--card", help="Fill the marked place of this page, the table by type.", metavar="FILE"),
    ] = None,
    settings: Annotated[
        str, typer.Option(help="main (cs2, fixed budgets, random, seats, uniform), all, or none,cs2@0.05,…")
    ] = "all",
    minutes: Annotated[
        float | None, typer.Option(help="Start no question after so long; 0: only write the pages.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Ask so many questions at most, of files drawn by a seed.")] = None,
    times: Annotated[int, typer.Option(help="Time the stages on so many clips, unless that was done; 0: none.")] = 1,
    look_only: Annotated[
        bool,
        typer.Option("--look-only", help="Only fill the feature cache for a later run."),
    ] = False,
    model: Annotated[str | None, typer.Option(help="As `ep ask --model`.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 40,
) -> None:
    """Measure, and write the page."""
    flags = {"model": model, "threads": threads, "max_new_tokens": max_new_tokens}
    profile = resolve(flags).profile
    found = read_set(questions)
    if look_only:
        _look(found, profile, limit)
        return

    def progress(done: int, total: int, failed: int) -> None:
        print(f"\r{done} of {total} questions, {failed} failed answers", end="", file=sys.stderr, flush=True)

    rows = sweep.sweep(found, profile, settings, out, limit=limit, minutes=minutes, on_question=progress)
    print(file=sys.stderr)
    measured = out.with_suffix(".times.json")
    if times and minutes != 0 and not measured.exists():
        keeps = KEEPS if any(r["selector"] == "cs2" for r in rows) else KEEPS[1:]
        choices = [Configuration("none", None), *(Configuration(None, keep) for keep in keeps)]
        measured.write_text(json.dumps(bench_clips(clips_to_time(found, times), choices, 3, profile), indent=2))
    clock = json.loads(measured.read_text()) if measured.exists() else None
    said = ["python", "-m", "epcli.lab.results", *map(str, (questions.name, "--out", out.name))]
    said += ["--page", f"docs/{page_path.name}"] if page_path else []
    said += ["--settings", settings] if settings != "all" else []
    said += ["--limit", str(limit)] if limit else []
    more = page_path.name if page_path else "results.md"
    for path, text in (
        (page_path, lambda _: page(found, rows, clock, shlex.join(said))),
        (card_path, lambda old: filled(old, card(rows, found, more), card_path)),  # type: ignore[arg-type]
    ):
        if path is not None:
            with whole(path) as partial:
                partial.write_text(text(path.read_text(encoding="utf-8") if path.exists() else ""), encoding="utf-8")
            print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    try:
        typer.run(main)
    except EpError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
