"""ep-moments, our generated benchmark: `python -m epcli.lab.benchmark LIBRARY OUT` writes media files and questions.

Scenes of 10 to 60 s whose answer often hangs on one brief moment: several events between long silences, pictures that
stand still, change, flash up or move, distractors; questions about what, where, when and in which order, by eye, by ear
and by both. Pictures, recordings and sentences are the held-out ones of the library (docs/sources.md), none of them by
content among the training ones, which is checked. No two scenes hold the same things, in whatever order.
The same library, version and seed give the same scripts and questions.

With --short, ep-basics: scenes of 3 to 9 s, as a first try would be, and of the questions mostly the plain ones.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from epcli.errors import EpError, UsageError
from epcli.files import whole
from epcli.lab.film import write_film
from epcli.lab.pools import moved
from epcli.lab.questions import SceneQuestion, ask
from epcli.lab.scenes import Library, Script, Thing, View, new_view, things_heard, write_long_script, write_script

NAME, VERSION, SEED = "ep-moments", 1, 2512
SCENES, QUESTIONS = 132, 4
LENGTHS = ((10.0, 20.0), (10.0, 20.0), (10.0, 20.0), (20.0, 35.0), (20.0, 35.0), (35.0, 60.0))  # in turn, seconds
MOVES = 9  # in each ninth scene with a picture something moves
SIZES = ((640, 360), (640, 360), (480, 360), (400, 400), (360, 640))
LEFT_OUT = ("describe",)  # needs a long answer
ABOUT_PICTURES = ("see", "colour", "place", "where", "move", "count seen")  # of types that name no evidence
BOTH = 0.35  # a question for both senses counts so much when types are balanced: few types need both
MANIFEST = "benchmark.json"
# ep-basics
SHORT_NAME, SHORT_VERSION, SHORT_SCENES, SHORT_QUESTIONS = "ep-basics", 1, 130, 4
SHORT_LENGTH = (3.0, 9.0)  # seconds
PLAIN = ("hear", "first", "last", "see", "where", "colour", "see while", "hear while", "speech")
PLAIN_WEIGHT = 0.35  # a plain question counts so much when types are balanced: they are asked three times as often


def needs(question: SceneQuestion) -> str:
    """Which senses hold the answer: "sound", "picture" or "both"."""
    kinds = {e.modality for e in question.evidence}
    if len(kinds) == 2:
        return "both"
    if not kinds:  # the answer is an absence
        return "picture" if question.type.startswith(ABOUT_PICTURES) else "sound"
    return "picture" if kinds == {"video"} else "sound"


def things_of(script: Script) -> frozenset[str]:
    """Everything seen and heard, without order; spoken lines too."""
    seen = {o.thing.name for v in script.views for o in v.objects}
    heard = {t.name for p in script.sounds for t in p.things}
    return frozenset(seen | heard | {p.speech for p in script.sounds if p.speech})


def moving(lib: Library, rng: random.Random, duration_s: float, heard: Sequence[Thing]) -> tuple[View, ...]:
    """One object that goes from one side to the other somewhere in the middle."""
    while True:
        cut = round(duration_s * rng.uniform(0.3, 0.7), 2)
        before = new_view(lib, rng, 0.0, cut, None, heard)
        if (after := moved(before)) is not None:
            return before, replace(after, start_s=cut, end_s=duration_s)


def scripts(lib: Library, rng: random.Random, count: int, *, short: bool = False) -> Iterable[Script]:
    """`count` scenes of the lengths in turn, no two of the same things."""
    known: set[frozenset[str]] = set()
    for number in range(count):
        low, high = SHORT_LENGTH if short else LENGTHS[number % len(LENGTHS)]
        for _ in range(500):
            script = write_script(lib, rng, low, high) if short else write_long_script(lib, rng, high + 2.0)
            if not short and script.views and number % MOVES == MOVES - 1:
                script = replace(script, views=moving(lib, rng, script.duration_s, things_heard(script.sounds)))
            things = things_of(script)
            if (short or low <= script.duration_s <= high) and things not in known and (script.views or script.sounds):
                break
        else:
            raise UsageError(f"{lib.folder}: too few {lib.split} sources for {count} scenes; give a smaller --count")
        known.add(things)
        yield replace(script, size=rng.choice(SIZES))


def choose(
    asked: Sequence[SceneQuestion], count: int, so_far: Counter[str], rng: random.Random, *, short: bool = False
) -> list[SceneQuestion]:
    """`count` questions of different types, those asked least so far.

    Those for both senses are favoured, or in short scenes the plain ones.
    """
    types = {q.type: needs(q) for q in asked if q.type not in LEFT_OUT}
    weight = {kind: BOTH if need == "both" else 1.0 for kind, need in types.items()}
    if short:
        weight = {kind: PLAIN_WEIGHT if kind in PLAIN else 1.0 for kind in types}
    first = sorted(weight, key=lambda kind: (weight[kind] * so_far[kind], rng.random()))[:count]
    so_far.update(first)
    return [rng.choice([q for q in asked if q.type == kind]) for kind in first]


def as_row(media: str, question: SceneQuestion) -> dict[str, Any]:
    """A line of questions.jsonl."""
    row = {"media": media, "question": question.question, "accept": question.accept}
    row |= {"reject": question.reject} if question.reject else {}
    evidence = [[e.modality, round(e.start_s, 2), round(e.end_s, 2)] for e in question.evidence]
    return row | {"type": question.type, "answer": question.answer, "needs": needs(question), "evidence": evidence}


def check_disjoint(lib: Library, chosen: Sequence[Script]) -> int:
    """How many files the scenes use. Raises UsageError for one that is, by content, among the training files."""
    used = {o.picture for s in chosen for v in s.views for o in v.objects}
    used |= {path for s in chosen for p in s.sounds for path in p.sounds}
    used |= {p.speech_file for s in chosen for p in s.sounds if p.speech_file is not None}
    return check_apart(lib, used)


def check_apart(lib: Library, used: Iterable[Path]) -> int:
    """How many files these are. Raises UsageError for one that is, by content, among the training files."""
    used = sorted(used)
    other = Library(lib.folder, "train")
    trained = {path for thing in other.things for path in (*thing.pictures, *thing.sounds)}
    trained |= {lib.folder / line["file"] for line in other.speech}
    known = {_digest(path): path for path in trained}
    for path in used:
        if (same := known.get(_digest(path))) is not None:
            raise UsageError(f"{path}: is held out, but {same} of the training sources is the same; build them again")
    return len(used)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _digest_of(script: Script, lib: Library) -> str:
    """A name for what a scene shows, so that a file of another script is never taken for it."""
    return hashlib.sha256(repr(script).replace(str(lib.folder), "").encode()).hexdigest()[:8]


def make(
    library: Path,
    out: Path,
    count: int | None = None,
    questions: int | None = None,
    seed: int = SEED,
    split: str = "heldout",
    *,
    short: bool = False,
) -> dict[str, Any]:
    """Write OUT/media, OUT/questions.jsonl and OUT/benchmark.json; returns the last.

    Raises UsageError or MediaError.
    """
    usual = (SHORT_SCENES, SHORT_QUESTIONS) if short else (SCENES, QUESTIONS)
    count, questions = count or usual[0], questions or usual[1]
    title, version = (SHORT_NAME, SHORT_VERSION) if short else (NAME, VERSION)
    try:
        lib = Library(library, split)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{library}: is no folder of `python -m epcli.lab.sources` ({error})") from None
    rng, so_far = random.Random(seed), Counter[str]()
    chosen = list(scripts(lib, rng, count, short=short))
    sources = check_disjoint(lib, chosen) if split != "train" else 0
    (out / "media").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, script in enumerate(chosen):
        name = f"media/{number:04d}-{_digest_of(script, lib)}.{'mp4' if script.views else 'm4a'}"
        rows += [as_row(name, q) for q in choose(ask(script, lib, rng), questions, so_far, rng, short=short)]
        if not (out / name).exists():  # whole or not at all, so a run that was stopped goes on
            write_film(script, out / name)
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {count} scenes", end="", file=sys.stderr, flush=True)
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    ours = (count, questions, seed, split) == (*usual, SEED, "heldout")
    manifest = {
        "name": title if ours else "scenes",
        "version": version if ours else 0,
        "seed": seed,
        "split": split,
        "scenes": count,
        "seconds": round(sum(s.duration_s for s in chosen), 1),
        "questions": len(rows),
        "needs": dict(sorted(Counter(r["needs"] for r in rows).items())),
        "types": dict(sorted(so_far.items())),
        "sources": sources,
        "questions_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    for path, content in ((out / "questions.jsonl", text), (out / MANIFEST, json.dumps(manifest, indent=2) + "\n")):
        with whole(path) as partial:
            partial.write_text(content, encoding="utf-8")
    return manifest


def main(
    library: Annotated[Path, typer.Argument(help="Folder written by `python -m epcli.lab.sources`.")],
    out: Annotated[Path, typer.Argument(help="Where to write media and questions.jsonl.")],
    count: Annotated[
        int | None,
        typer.Option(help="Scenes (132, or 130 with --short); another number is another set, without the name.", min=1),
    ] = None,
    questions: Annotated[int | None, typer.Option(help="Asked of each scene, at most (4).", min=1)] = None,
    seed: int = SEED,
    split: Annotated[str, typer.Option(help="heldout, or train to see how much was learnt by heart.")] = "heldout",
    short: Annotated[bool, typer.Option("--short", help="ep-basics: short scenes, plain questions.")] = False,
) -> None:
    """Write ep-moments or ep-basics, or a set made in their way."""
    try:
        made = make(library, out, count, questions, seed, split, short=short)
    except EpError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    typer.echo(
        f"{made['name']} v{made['version']}: {made['questions']} questions about {made['scenes']} scenes in {out}"
    )


if __name__ == "__main__":
    typer.run(main)
