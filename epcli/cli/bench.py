"""`ep bench`: how long the stages take at chosen keep ratios."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from epcli.cli.options import DebugFlag, JsonFlag, given, option, path_argument, settings
from epcli.cli.screen import StatusLine
from epcli.config import Resolved
from epcli.errors import UsageError

SHAPE = "Random weights instead of a model"
AV_TOKENS = 2048  # of a shape: 13 seconds of film


@dataclass(frozen=True)
class Weights:
    """Random weights of a model's shape."""

    shape: Annotated[
        str | None, option("The text decoder of this model: qwen2.5-omni-3b or qwen2.5-omni-7b.", "NAME", SHAPE)
    ] = None
    av_tokens: Annotated[
        int | None, option("Sound and picture tokens.", "COUNT", SHAPE, min=1, show_default=str(AV_TOKENS))
    ] = None
    layers: Annotated[
        int | None, option("Only so many decoder layers, for a quick look.", "COUNT", SHAPE, min=1, show_default="all")
    ] = None


@dataclass(frozen=True)
class Rounds:
    """What is compared, and how often."""

    keeps: Annotated[
        str,
        option("Shares of the tokens to compare; none: no sieve.", "LIST", "", "--keep"),
    ] = "none,1.0,0.2,0.1,0.05"
    selectors: Annotated[
        str | None,
        option(
            "Selectors to compare at these shares, as seats,cs2.",
            "LIST",
            "",
            "--selector",
            show_default="the model's own; cs2 with --shape",
        ),
    ] = None
    repeat: Annotated[int, option("Rounds that count; one before does not.", "COUNT", min=1)] = 3
    again: Annotated[
        bool, option("Compare asking again, from the feature cache, with asking first.", "", "", "--again")
    ] = False


@settings("look", "model", "device", "dtype", "quantize", "threads")
def bench(
    media: Annotated[
        list[Path] | None, path_argument("Files to ask a model about; none with --shape.", "MEDIA...")
    ] = None,
    *,
    rounds: Rounds,
    weights: Weights,
    resolved: Resolved,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Time the stages at several keep ratios, and compare with the arithmetic limit.

    The ratios take turns, and medians are shown. --shape needs no download, but
    time and memory: the first example takes 8 GB, and took seven minutes on two
    CPU cores with bfloat16 instructions; on others it takes longer. --layers 4
    is a quick look.
    """
    media, shape, layers, profile = media or [], weights.shape, weights.layers, resolved.profile
    keeps, selectors, repeat, again = rounds.keeps, rounds.selectors, rounds.repeat, rounds.again
    _check(media, weights, again, given(resolved))

    from epcli.media.probe import check_file
    from epcli.models import catalog

    for path in media:
        check_file(path)
    if shape is None:
        catalog.check_present(profile.model)
    from epcli.evals import bench as measure  # the model libraries load here

    chosen = measure.read_configurations(selectors, keeps)
    status = StatusLine()

    def progress(done: int, total: int) -> None:
        status.show(f"pass {done} of {total}")

    if again:
        from epcli.evals.again import bench_again

        result = bench_again(media, repeat, profile, shape=shape, layers=layers, on_pass=progress)
    elif shape is not None:
        result = measure.bench_shape(
            shape, chosen, repeat, profile, av_tokens=weights.av_tokens or AV_TOKENS, layers=layers, on_pass=progress
        )
    else:
        result = measure.bench_clips(media, chosen, repeat, profile, progress, status.loading)
    status.clear()
    if json:
        from json import dumps

        typer.echo(dumps(result, indent=2))
        return
    if again:
        _print_again(result)
    else:
        _print(result)


def _check(media: list[Path], weights: Weights, again: bool, flags: list[str]) -> None:
    """Raises UsageError for flags that do not go together. `flags`: the settings among them."""
    if again and not media:
        raise UsageError("--again needs files to ask about; --shape names the towers, without it --model answers")
    if again and weights.av_tokens:
        raise UsageError("--av-tokens goes with --shape alone; --again looks at the files given")
    if bool(media) == bool(weights.shape) and not again:
        raise UsageError("give either files to ask about, or --shape")
    if weights.shape is None:
        if weights != Weights():
            raise UsageError("--av-tokens and --layers go with --shape")
        return
    for flag in flags:  # no model is asked, and without --again no file is looked at
        if flag in ("--model", "--quantize"):
            raise UsageError(f"{flag} goes with files, and --shape is in its place")
        if not again and flag not in ("--device", "--threads"):
            raise UsageError(f"{flag} goes with files; --shape looks at none")


def _print_again(result: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from epcli.text import size

    setup, rows = result["setup"], result["rows"]
    print(f"{setup['model']} · {setup['chip'] or setup['device']} {setup['dtype']} · median of {setup['repeat']}")
    table = Table(box=box.SIMPLE, pad_edge=False)
    stages = [stage for stage in rows[0]["stages_s"] if any(row["stages_s"][stage] for row in rows)]
    for heading in ("asked", *stages):
        table.add_column(heading, justify="left" if heading == "asked" else "right")
    for row in rows:
        table.add_row(row["asked"], *(f"{row['stages_s'][stage]:.3f} s" for stage in stages))
    Console(width=min(Console().width, 100)).print(table)
    first, second = rows
    for key, ratio in result["speedup"].items():
        what = {"before_prefill": "up to prefill"}.get(key, key.replace("_", " "))
        print(f"{what:16} {first[f'{key}_s']:8.3f} s first, {second[f'{key}_s']:8.3f} s again: {ratio:.1f}x faster")
    print(f"{size(setup['stored_bytes'])} stored; loading the model is not counted")
    if "note" in setup:
        print(f"note: {setup['note']}")


def _print(result: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from epcli.text import size

    def table(*headings: str) -> Table:
        made = Table(box=box.SIMPLE, pad_edge=False)
        for heading in headings:
            made.add_column(heading, justify="right")
        return made

    def times(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}x"

    setup, rows = result["setup"], result["rows"]
    console = Console(width=min(Console().width, 100))
    name = setup.get("shape") or setup["model"]
    print(f"{name} · {setup['chip'] or setup['device']} {setup['dtype']} · median of {setup['repeat']}")
    on_device = any(row["peak_device_bytes"] is not None for row in rows)
    peak = "GPU peak" if on_device else "peak RSS"
    main = table("selector", "keep", "sieve", "sieve + prefill", "speed-up", "limit", "KV cache", peak)
    for row in rows:
        main.add_row(
            row["selector"],
            _keep(row),
            f"{row['sieve_s']:.3f} s",
            f"{row['prefill_s']:.3f} s",
            times(row["speedup"]),
            times(row["limit"]),
            size(row["kv_cache_bytes"]),
            size(row["peak_device_bytes"] if on_device else row["peak_rss_bytes"]),
        )
    console.print(main)
    stages = [stage for stage in rows[0]["stages_s"] if stage not in ("sieve", "prefill")]
    if stages:
        every = table("selector", "keep", *rows[0]["stages_s"])
        for row in rows:
            every.add_row(row["selector"], _keep(row), *(f"{seconds:.2f} s" for seconds in row["stages_s"].values()))
        console.print(every)
    print("keep none: no sieve. limit: the speed-up by arithmetic alone (FLOP ratio).")
    if "note" in setup:
        print(f"note: {setup['note']}")


def _keep(row: dict[str, Any]) -> str:
    return "none" if row["keep"] is None else f"{row['keep']:g}"
