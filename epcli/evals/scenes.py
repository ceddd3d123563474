"""Make a question set of generated scenes as real media files: `python -m epcli.evals.scenes LIBRARY OUT`.

From held-out sources by default: pictures, sounds and sentences that no adapter was trained on.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from epcli.train.film import write_film
from epcli.train.questions import ask
from epcli.train.scenes import Library, write_script

SIZES = [(640, 360), (640, 360), (480, 360), (400, 400), (360, 640)]


def make(library: Path, out: Path, count: int, questions: int, seed: int, split: str) -> int:
    """Write `count` scenes and OUT/questions.jsonl; returns the number of questions."""
    lib, rng = Library(library, split), random.Random(f"{split}{seed}")
    (out / "media").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        script = replace(write_script(lib, rng, 3.0, 10.0), size=rng.choice(SIZES))
        name = f"media/{number:04d}.{'mp4' if script.views else 'm4a'}"
        if not (script.views or script.sounds):
            continue
        write_film(script, out / name)
        asked = ask(script, lib, rng)
        chosen = rng.sample(asked, min(questions, len(asked)))
        rows += [{"media": name, **asdict(q)} for q in chosen]
    partial = out / "questions.jsonl.part"
    partial.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    partial.replace(out / "questions.jsonl")
    return len(rows)


def main(
    library: Annotated[Path, typer.Argument(help="Folder written by `python -m epcli.train.sources`.")],
    out: Annotated[Path, typer.Argument(help="Where to write media and questions.jsonl.")],
    count: int = 160,
    questions: Annotated[int, typer.Option(help="Asked of each scene, at most.")] = 5,
    seed: int = 7,
    split: str = "heldout",
) -> None:
    typer.echo(f"{make(library, out, count, questions, seed, split)} questions in {out / 'questions.jsonl'}")


if __name__ == "__main__":
    typer.run(main)
