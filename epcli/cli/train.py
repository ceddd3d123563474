"""`ep train`: train the sieve and the model together on your own clips."""

from __future__ import annotations

import json as jsonlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epcli.cli.options import DebugFlag, Shown, settings
from epcli.config import Resolved
from epcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

RUN, METHOD, LOSS = "The run", "What is trained", "What is learned"


@settings(
    "look",
    "device",
    "dtype",
    "threads",
    model=Shown(METHOD, "Model to train: a name of `ep models list`, a Qwen2.5-Omni folder, or an adapter of ep-smol"),
    system=Shown(LOSS),
    seed=Shown(RUN, "Start of the random numbers"),
)
def train(
    data: Annotated[
        Path,
        typer.Argument(
            help='Questions and answers: JSONL of {"media", "question", "answer"}, AVQA or LLaVA-Video files.',
            metavar="DATA",
            show_default=False,
        ),
    ],
    *,
    sieve: Annotated[
        bool,
        typer.Option(
            "--sieve/--no-sieve", help="Train a sieve, or the model alone (default: a sieve).", rich_help_panel=METHOD
        ),
    ] = True,
    method: Annotated[
        str,
        typer.Option(
            help="lora; qlora, the same on 4-bit weights; or full. ep-smol takes lora only (default: lora).",
            metavar="lora|qlora|full",
            rich_help_panel=METHOD,
        ),
    ] = "lora",
    lora_rank: Annotated[
        int,
        typer.Option(
            help="Rank of the decoder's change (default: 16).", metavar="RANK", min=1, max=512, rich_help_panel=METHOD
        ),
    ] = 16,
    refiner_rank: Annotated[
        int | None,
        typer.Option(
            help="Rank of the refiner's change; 0 trains it in full (default: 32, and 0 with full).",
            metavar="RANK",
            min=0,
            max=512,
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    refiner_gain: Annotated[
        float | None,
        typer.Option(
            help="What a refiner layer adds at the start, as a share of the decoder's own layer (default: 0, and 1 "
            "in full).",
            metavar="SHARE",
            min=0.0,
            max=1.0,
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    keep_range: Annotated[
        str,
        typer.Option(
            help="Keep ratios to be good at: each item draws one (default: 0.02-1.0).",
            metavar="LOW-HIGH",
            rich_help_panel=LOSS,
        ),
    ] = "0.02-1.0",
    plain: Annotated[
        float,
        typer.Option(
            help="Share of items that go past the sieve, for the other selectors (default: 0.2).",
            metavar="SHARE",
            min=0.0,
            max=1.0,
            rich_help_panel=LOSS,
        ),
    ] = 0.2,
    relevance: Annotated[
        float,
        typer.Option(
            help="Weight of finding the evidence, where the data tell it (default: 0.3).",
            metavar="WEIGHT",
            min=0.0,
            max=100.0,
            rich_help_panel=LOSS,
        ),
    ] = 0.3,
    distil: Annotated[
        float,
        typer.Option(
            help="Weight of answering as from all tokens; costs a pass (default: 0).",
            metavar="WEIGHT",
            min=0.0,
            max=100.0,
            rich_help_panel=LOSS,
        ),
    ] = 0.0,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for checkpoints, log and result (default: runs/own).", metavar="FOLDER", rich_help_panel=RUN
        ),
    ] = Path("runs/own"),
    media: Annotated[
        Path | None,
        typer.Option(
            help="Where the media lie (default: beside DATA).",
            metavar="FOLDER",
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="Questions to measure on, never trained on.",
            metavar="FILE",
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="How long to train (default: 30).", metavar="NUMBER", min=0.01, rich_help_panel=RUN)
    ] = 30.0,
    steps: Annotated[
        int | None,
        typer.Option(
            help="How many steps to train, in place of minutes.",
            metavar="COUNT",
            min=1,
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = None,
    items: Annotated[
        int,
        typer.Option(
            help="Questions a step; their gradients are added up (default: 8).",
            metavar="COUNT",
            min=1,
            rich_help_panel=RUN,
        ),
    ] = 8,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            help="Peak learning rate of the decoder (default: 3e-4, and 1e-5 with full).",
            metavar="RATE",
            min=1e-8,
            max=0.1,
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's checkpoint.", rich_help_panel=RUN)
    ] = False,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(
            help="Between checkpoints: what a kill can lose (default: 2).",
            metavar="NUMBER",
            min=0.0,
            rich_help_panel=RUN,
        ),
    ] = 2.0,
    evaluate_minutes: Annotated[
        float,
        typer.Option(
            help="Between measurements on --held-out (default: 10).", metavar="NUMBER", min=0.0, rich_help_panel=RUN
        ),
    ] = 10.0,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Less memory for a third more time; not used by ep-smol (default: yes).",
            rich_help_panel=RUN,
        ),
    ] = True,
    resolved: Resolved,
    debug: DebugFlag = False,
) -> None:
    """Train a model and its sieve together on your own clips, questions and answers.

    One file comes out that is good at every keep ratio. What it says about itself while it learns goes to standard
    error and FOLDER/log.jsonl, curves to FOLDER/training.svg, and the path of what `ep ask --model` takes to standard
    output. An interrupted or killed run goes on with --resume.
    """
    keep = _range(keep_range)
    if method not in ("lora", "qlora", "full"):
        raise UsageError(f"--method {method}: is not one of lora, qlora, full")
    from epcli.models import catalog

    catalog.check_present(resolved.profile.model)
    from epcli.train.learners import Shape
    from epcli.train.run import Order, train
    from epcli.train.sieve_trainer import SieveRecipe

    full = method == "full"
    rank = (0 if full else 32) if refiner_rank is None else refiner_rank
    shape = Shape(
        sieve=sieve,
        lora_rank=lora_rank,
        refiner_rank=rank,
        refiner_gain=(Shape.refiner_gain if rank else 1.0) if refiner_gain is None else refiner_gain,
    )
    recipe = SieveRecipe(
        minutes=minutes,
        steps=steps,
        items=items,
        keep=keep,
        plain=plain,
        relevance_any=relevance,
        distil=distil,
        checkpoint_s=60 * checkpoint_minutes,
        evaluate_s=60 * evaluate_minutes,
        seed=resolved.profile.seed,
    )
    order = Order(data, out, media, held_out, method, lr, resume, gradient_checkpointing)
    typer.echo(train(order, recipe, shape, resolved.profile, _screen()))


def _range(text: str) -> tuple[float, float]:
    """A range of shares. Raises UsageError."""
    match = re.fullmatch(r"([0-9.]+)-([0-9.]+)", text.strip())
    try:
        low, high = (float(part) for part in match.groups()) if match else (0.0, 0.0)
    except ValueError:
        low = high = 0.0
    if not 0 < low <= high <= 1:
        raise UsageError(f"--keep-range {text}: is not a range of shares over 0 up to 1, like 0.02-1.0")
    return low, high


def _screen() -> Callable[[str], None]:
    """Log lines for people: one short line each on standard error."""

    def say(line: str) -> None:
        try:
            row: dict[str, Any] = jsonlib.loads(line)
        except ValueError:
            row = {}
        print(_line(row) if row else f"ep: {line}", file=sys.stderr, flush=True)

    return say


def _line(row: dict[str, Any]) -> str:
    head = f"step {row['step']:>5}  {row['minutes']:>6.1f} min"
    if "held_out" in row:
        parts = [
            f"{'all tokens' if way == 'none' else f'keep {way}'} {r['exact']:.2f}" for way, r in row["held_out"].items()
        ]
        return f"{head}  held out, exact: {', '.join(parts)}"
    shown = {"loss": "loss {:.3f}", "exact": "exact {:.2f}", "kept_video": "video {:.0%}", "kept_audio": "audio {:.0%}"}
    parts = [form.format(row[key]) for key, form in shown.items() if key in row]
    return f"{head}  {row['questions']:>7} questions  {'  '.join(parts)}"
