"""How often the evidence points at what the answer is about: `python -m epcli.lab.evidence_rates LIBRARY`.

Scenes are generated from held-out sources, so that when each sound plays and where each thing stands is known, and the
questions are those whose answer lies in one part of the clip. The evidence of an answer is right if the token at the
peak of its first moment lies in that part: in the right modality, at the right time and, where the question is about a
place, on the right thing. Chance is the share of the kept tokens that lie there: what a
token drawn blindly would reach.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from epcli.config import DEFAULT_KEEP, Profile
from epcli.evals.score import ci95
from epcli.lab.benchmark import SIZES
from epcli.lab.film import write_film
from epcli.lab.questions import SceneQuestion, ask
from epcli.lab.scenes import Library, Script, render, write_script
from epcli.records import MediaTokens, Modality, Moment
from epcli.session.clips import EncodedClip
from epcli.session.moments import media_tokens, moments
from epcli.session.session import Answered, Session

SCHEMA = 1
COVERED = 0.3  # share of a cell that a thing's box must cover for the cell to count as on it
Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the scene


@dataclass(frozen=True)
class Truth:
    """The part of a scene that holds an answer."""

    modality: Modality
    start_s: float
    end_s: float
    box: Box | None = None  # None: anywhere in the picture

    def holds(self, tokens: MediaTokens) -> np.ndarray:
        """(n,) bool: which tokens lie in it; `tokens` of the scene written as a film."""
        middle = tokens.spans_s.mean(1)
        inside = (tokens.modality == self.modality) & (middle >= self.start_s) & (middle < self.end_s)
        if self.box is not None:
            x, y, width, height = self.box
            left, top, right, bottom = tokens.boxes.T
            across = np.minimum(right, x + width) - np.maximum(left, x)
            down = np.minimum(bottom, y + height) - np.maximum(top, y)
            area = np.maximum((right - left) * (bottom - top), 1)
            inside &= across.clip(0) * down.clip(0) >= COVERED * area
        return inside


def truth_of(script: Script, question: SceneQuestion, boxes: list[list[Box]]) -> Truth | None:
    """Where a question's answer lies; None for a question that is not about one part, or about the whole clip."""
    parts = [part for part in script.sounds if part.things or part.speech]
    views, kind = script.views, question.type

    def sound(part: Any) -> Truth | None:
        names = {thing.name for thing in part.things}
        again = any(other is not part and names & {t.name for t in other.things} for other in script.sounds)
        return None if again else Truth(Modality.AUDIO, part.start_s, part.end_s)

    second = re.search(r"(?:second |at |0:)(\d+)|(\d+) seconds", question.question)
    at = int(second[1] or second[2]) if second else -1
    if kind in ("first", "last") and len(parts) > 1:
        return sound(parts[0] if kind == "first" else parts[-1])
    if kind == "hear at":
        return next((sound(part) for part in parts if part.start_s <= at < part.end_s), None)
    if kind == "speech":
        return next((Truth(Modality.AUDIO, p.start_s, p.end_s) for p in parts if p.speech), None)
    if kind in ("see first", "see last", "see at") and len(views) > 1:
        view = views[0] if kind == "see first" else views[-1] if kind == "see last" else script.view_at(at)
        return Truth(Modality.VIDEO, view.start_s, view.end_s) if view is not None else None
    if kind in ("where", "place") and len(views) == 1:
        for thing, box in zip(views[0].objects, boxes[0], strict=True):
            said = question.question.lower() if kind == "where" else question.answer.lower()
            if re.search(rf"\b{re.escape(thing.thing.name.lower())}\b", said):
                return Truth(Modality.VIDEO, 0.0, script.duration_s, box)
    return None


def cases(
    lib: Library, count: int, seed: int, shortest_s: float, longest_s: float
) -> Iterator[tuple[Script, list[tuple[SceneQuestion, Truth]]]]:
    """Scenes with the questions whose answer's place is known, until there are `count` questions."""
    rng, made = random.Random(f"evidence{seed}"), 0
    while made < count:
        script = replace(write_script(lib, rng, shortest_s, longest_s), size=rng.choice(SIZES))
        if not (script.views or script.sounds):
            continue
        boxes = render(script)[1]
        known = [(question, truth_of(script, question, boxes)) for question in ask(script, lib, rng)]
        found = [(question, truth) for question, truth in known if truth is not None][: count - made]
        if found:
            made += len(found)
            yield script, found


def measure(
    lib: Library, profile: Profile, count: int, seed: int, shortest_s: float, longest_s: float
) -> Iterator[dict[str, Any]]:
    """Ask every question of `cases` about its scene written as a real file, and compare evidence and truth."""
    session = Session(profile)
    with tempfile.TemporaryDirectory() as scratch:
        for number, (script, asked) in enumerate(cases(lib, count, seed, shortest_s, longest_s)):
            film = Path(scratch) / f"{number}.{'mp4' if script.views else 'm4a'}"
            write_film(script, film)
            looked = session.look(film)
            for question, truth in asked:
                yield {"scene": number, **_compare(session.run(looked, question.question), looked, question, truth)}
            film.unlink()


def _compare(asked: Answered, looked: EncodedClip, question: SceneQuestion, truth: Truth) -> dict[str, Any]:
    tokens = media_tokens(asked.kept.stream, looked.clip)
    places = asked.kept.indices.cpu()
    is_av = asked.kept.stream.modality.cpu() != Modality.TEXT
    kept = np.zeros(len(is_av), bool)
    kept[places.numpy()] = True
    kept = kept[is_av.numpy()]
    evidence, there = asked.evidence, truth.holds(tokens)
    assert evidence is not None
    same = kept & (tokens.modality == truth.modality)
    found = moments(tokens, evidence)
    peak = evidence.argmax() if not found else _peak(tokens, evidence, found[0])
    return {
        "type": question.type,
        "question": question.question,
        "answer": asked.report.answer,
        "right": question.judge(asked.report.answer),
        "moments": [moment.label for moment in found],
        "hit": bool(there[peak] and evidence[peak] > 0),
        "chance": float((there & kept).sum() / max(kept.sum(), 1)),
        "hit_within": bool(there[np.where(same, evidence, -1).argmax()]) if same.any() else False,
        "chance_within": float((there & same).sum() / max(same.sum(), 1)),
        "share": float(evidence[there].sum()),
    }


def _peak(tokens: MediaTokens, evidence: np.ndarray, moment: Moment) -> int:
    """The token at the peak of a moment."""
    of = (tokens.modality == Modality[moment.modality.upper()]) & (
        np.abs(tokens.spans_s.mean(1) - moment.peak_s) < 1e-3
    )
    return int(np.where(of, evidence, -1).argmax())


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Hit rates, chance and 95% intervals (clustered by scene): of all answers, of the right ones, by type."""

    def score(members: list[dict[str, Any]]) -> dict[str, Any]:
        scenes = [row["scene"] for row in members]
        return {
            "n": len(members),
            "hit": float(np.mean([row["hit"] for row in members])),
            "ci95": list(ci95([row["hit"] for row in members], scenes)),
            "chance": float(np.mean([row["chance"] for row in members])),
            "hit_within_modality": float(np.mean([row["hit_within"] for row in members])),
            "ci95_within_modality": list(ci95([row["hit_within"] for row in members], scenes)),
            "chance_within_modality": float(np.mean([row["chance_within"] for row in members])),
            "share_of_evidence": float(np.mean([row["share"] for row in members])),
        }

    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kinds[row["type"]].append(row)
    right = [row for row in rows if row["right"]]
    return {
        "schema": SCHEMA,
        "all": score(rows),
        "right_answers": score(right) if right else None,
        "by_type": {kind: score(members) for kind, members in sorted(kinds.items())},
    }


def table(result: dict[str, Any]) -> str:
    """The summary as a Markdown table."""
    lines = [
        "| questions | n | first moment is right | chance | best token of its modality is right | chance |",
        "|---|---|---|---|---|---|",
    ]
    rows = {"all": result["all"], "answered truly": result["right_answers"], **result["by_type"]}
    for name, row in rows.items():
        if row:
            (low, high), (low_w, high_w) = row["ci95"], row["ci95_within_modality"]
            lines.append(
                f"| {name} | {row['n']} | {row['hit']:.2f} ({low:.2f}–{high:.2f}) | {row['chance']:.2f} "
                f"| {row['hit_within_modality']:.2f} ({low_w:.2f}–{high_w:.2f}) | {row['chance_within_modality']:.2f} |"
            )
    return "\n".join(lines)


def main(
    library: Annotated[Path, typer.Argument(help="Folder written by `python -m epcli.lab.sources`.")],
    count: Annotated[int, typer.Option(help="Questions to ask.", min=1)] = 300,
    keep: Annotated[float | None, typer.Option(help="Share of the tokens to keep (default: 0.2).")] = None,
    model: Annotated[str, typer.Option(help="Model, or an adapter's file.")] = "ep-smol",
    selector: Annotated[str | None, typer.Option(help="Selector (default: the model's own).")] = None,
    shortest: Annotated[float, typer.Option(help="Shortest scene, seconds.")] = 4.0,
    longest: Annotated[float, typer.Option(help="Longest scene, seconds.")] = 12.0,
    seed: int = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: all cores).")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a JSONL line a question here.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Measure how often the evidence of an answer points at the part of a scene that the question is about."""
    keep = DEFAULT_KEEP if keep is None and selector != "none" else keep
    profile = Profile(model=model, keep=keep, selector=selector, threads=threads, cache=False)
    rows: list[dict[str, Any]] = []
    for row in measure(Library(library, "heldout"), profile, count, seed, shortest, longest):
        rows.append(row)
        if out is not None:
            with out.open("a" if len(rows) > 1 else "w", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if sys.stderr.isatty():
            print(f"\r{len(rows)} of {count}", end="", file=sys.stderr, flush=True)
    result = summary(rows)
    typer.echo(json.dumps(result, indent=2) if json_ else table(result))


if __name__ == "__main__":
    typer.run(main)
