"""`ep train`: fine-tune the built-in model on your own clips."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from epcli.cli.options import DebugFlag


def train(
    data: Annotated[
        Path,
        typer.Argument(
            help='JSONL of {"media", "question", "answer"}; media relative to it.', metavar="DATA", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the result.", metavar="FOLDER")] = Path(
        "runs/own"
    ),
    minutes: Annotated[float, typer.Option(help="How long to train.", min=0.01)] = 30.0,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.", min=1e-7, max=0.1)] = 3e-4,
    held_out: Annotated[
        Path | None, typer.Option(help="Questions of the same form to measure on, never trained on.", metavar="FILE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: all cores).", min=1)] = None,
    debug: DebugFlag = False,
) -> None:
    """Fine-tune ep-smol on your own clips, questions and answers.

    A checkpoint is written every three minutes; after an interruption go on with --resume. Use the result with
    `ep ask --model FOLDER/adapter.safetensors`.
    """
    import torch

    from epcli.train import own

    if threads:
        torch.set_num_threads(threads)
    result = own.train(data, out, minutes, resume, lr, held_out, lambda line: print(line, file=sys.stderr, flush=True))
    typer.echo(result)
