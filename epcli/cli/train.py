"""`ep train`: train the sieve and the model together on your own clips."""

from __future__ import annotations

import json as jsonlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epcli.cli.options import DebugFlag, Shown, option, path_argument, path_option, settings
from epcli.config import Resolved
from epcli.errors import UsageError
from epcli.train.recipe import FULL_LR, LORA_LR, METHODS, Order, SieveRecipe, TrainedParts

if TYPE_CHECKING:
    from collections.abc import Callable

RUN, METHOD, LOSS = "The run", "What is trained", "What is learned"
LOW, HIGH = SieveRecipe.keep


@dataclass(frozen=True)
class Trained:
    """What is trained, and how freely."""

    sieve: Annotated[bool, option("Train a sieve, or the model alone.", "", METHOD, show_default="a sieve")] = (
        TrainedParts.sieve
    )
    method: Annotated[
        str,
        option(
            "lora; qlora, which is lora on 4-bit weights; or full, all weights. ep-smol takes lora only.",
            "|".join(METHODS),
            METHOD,
        ),
    ] = Order.method
    lora_rank: Annotated[int, option("Rank of the decoder's LoRA.", "RANK", METHOD, min=1, max=512)] = (
        TrainedParts.lora_rank
    )
    refiner_rank: Annotated[
        int | None,
        option(
            "Rank of the refiner's LoRA; 0 trains the refiner in full.",
            "RANK",
            METHOD,
            min=0,
            max=512,
            show_default=f"{TrainedParts.refiner_rank}, and 0 with full",
        ),
    ] = None
    refiner_gain: Annotated[
        float | None,
        option(
            "How much a refiner layer adds at the start, as a share of what the decoder's layer adds.",
            "SHARE",
            METHOD,
            min=0.0,
            max=1.0,
            show_default=f"{TrainedParts.refiner_gain:g}, and 1 if trained in full",
        ),
    ] = None

    def parts(self) -> TrainedParts:
        """Of the model that is trained. Raises UsageError for an unknown method."""
        if self.method not in METHODS:
            raise UsageError(f"--method {self.method}: is not one of {', '.join(METHODS)}")
        rank, gain = self.refiner_rank, self.refiner_gain
        if rank is None:
            rank = 0 if self.method == "full" else TrainedParts.refiner_rank
        if gain is None:
            gain = TrainedParts.refiner_gain if rank else 1.0
        return TrainedParts(sieve=self.sieve, lora_rank=self.lora_rank, refiner_rank=rank, refiner_gain=gain)


@dataclass(frozen=True)
class Learned:
    """What is learned."""

    keep_range: Annotated[str, option("Keep ratios to train for; each question draws one.", "LOW-HIGH", LOSS)] = (
        f"{LOW}-{HIGH}"
    )
    plain: Annotated[
        float,
        option(
            "Share of the questions that skip the sieve, so that other selectors work too.",
            "SHARE",
            LOSS,
            min=0.0,
            max=1.0,
        ),
    ] = SieveRecipe.plain
    relevance: Annotated[
        float,
        option(
            "Weight of the loss for keeping the evidence, if the data has evidence.", "WEIGHT", LOSS, min=0.0, max=100.0
        ),
    ] = 0.3
    distil: Annotated[
        float,
        option(
            "Weight of the loss for answering as with all tokens; takes one more forward pass.",
            "WEIGHT",
            LOSS,
            min=0.0,
            max=100.0,
        ),
    ] = SieveRecipe.distil


@dataclass(frozen=True)
class TrainingOptions:
    """How the run goes."""

    out: Annotated[Path, path_option("Folder for checkpoints, log and the trained file.", "FOLDER", RUN)] = Order.out
    media: Annotated[Path | None, path_option("Folder with the media.", "FOLDER", RUN, show_default="beside DATA")] = (
        None
    )
    held_out: Annotated[
        Path | None, path_option("Questions for evaluation, which are never trained on.", "FILE", RUN)
    ] = None
    minutes: Annotated[float, option("How long to train.", "NUMBER", RUN, min=0.01)] = SieveRecipe.minutes
    steps: Annotated[int | None, option("How many steps to train, instead of minutes.", "COUNT", RUN, min=1)] = (
        SieveRecipe.steps
    )
    items: Annotated[int, option("Questions in a step; their gradients are added up.", "COUNT", RUN, min=1)] = (
        SieveRecipe.items
    )
    lr: Annotated[
        float | None,
        option(
            "Peak learning rate of the decoder.",
            "RATE",
            RUN,
            "--lr",
            min=1e-8,
            max=0.1,
            show_default=f"{LORA_LR:g}, and {FULL_LR:g} with full",
        ),
    ] = None
    resume: Annotated[bool, option("Continue from the folder's checkpoint.", "", RUN, "--resume")] = False
    checkpoint_minutes: Annotated[
        float, option("Minutes between checkpoints; a crash loses at most so much.", "NUMBER", RUN, min=0.0)
    ] = SieveRecipe.checkpoint_s / 60
    evaluate_minutes: Annotated[float, option("Minutes between evaluations on --held-out.", "NUMBER", RUN, min=0.0)] = (
        SieveRecipe.evaluate_s / 60
    )
    gradient_checkpointing: Annotated[
        bool, option("Use less memory and a third more time; not used by ep-smol.", "", RUN)
    ] = Order.gradient_checkpointing


@settings(
    "look",
    "device",
    "dtype",
    "threads",
    model=Shown(
        METHOD, "Model to train: a name from `ep models list`, a Qwen2.5-Omni folder, or an adapter of ep-smol"
    ),
    system=Shown(LOSS),
    seed=Shown(RUN, "Seed of the random numbers"),
)
def train(
    data: Annotated[
        Path,
        path_argument(
            'Questions and answers: JSONL of {"media", "question", "answer"}, AVQA or LLaVA-Video files.', "DATA"
        ),
    ],
    *,
    trained: Trained,
    learned: Learned,
    running: TrainingOptions,
    resolved: Resolved,
    debug: DebugFlag = False,
) -> None:
    """Train a model and its sieve together on your own clips, questions and answers.

    The result is one file for every keep ratio. Its path goes to standard output; give it to `ep ask --model`. The
    progress goes to standard error and to log.jsonl in the folder of --out, with curves in training.svg. An interrupted
    or killed run continues with --resume.
    """
    recipe = _recipe(learned, running, resolved.profile.seed)
    parts = trained.parts()
    order = Order(
        data,
        running.out,
        running.media,
        running.held_out,
        trained.method,
        running.lr,
        running.resume,
        running.gradient_checkpointing,
    )
    from epcli.models import catalog

    catalog.check_present(resolved.profile.model)
    from epcli.train.run import train  # the model libraries load here

    typer.echo(train(order, recipe, parts, resolved.profile, _screen()))


def _recipe(learned: Learned, running: TrainingOptions, seed: int) -> SieveRecipe:
    return SieveRecipe(
        minutes=running.minutes,
        steps=running.steps,
        items=running.items,
        keep=_range(learned.keep_range),
        plain=learned.plain,
        relevance_any=learned.relevance,
        distil=learned.distil,
        checkpoint_s=60 * running.checkpoint_minutes,
        evaluate_s=60 * running.evaluate_minutes,
        seed=seed,
    )


def _range(text: str) -> tuple[float, float]:
    """A range of shares. Raises UsageError."""
    match = re.fullmatch(r"([0-9.]+)-([0-9.]+)", text.strip())
    try:
        low, high = (float(part) for part in match.groups()) if match else (0.0, 0.0)
    except ValueError:
        low = high = 0.0
    if not 0 < low <= high <= 1:
        raise UsageError(f"--keep-range {text}: is not a range of shares over 0 up to 1, like {LOW}-{HIGH}")
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
