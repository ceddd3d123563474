"""`ep plan`: what a question about a file would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epcli.cli.options import (
    MACHINE,
    DebugFlag,
    EndFlag,
    JsonFlag,
    MediaArgument,
    StartFlag,
    option,
    settings,
    time_range,
)
from epcli.config import Resolved
from epcli.text import visible

if TYPE_CHECKING:
    from epcli.session.plan import Plan

# The settings that change what a question costs.
SHAPING = (
    *("fps", "max_frames", "max_pixels", "video", "audio", "video_track", "model", "max_new_tokens"),
    *("tokens", "device", "dtype", "quantize"),
)


@settings(*SHAPING)
def plan(
    media: MediaArgument,
    *,
    start: StartFlag = None,
    end: EndFlag = None,
    resolved: Resolved,
    memory: Annotated[
        float | None,
        option("Plan for this much memory, in GB.", "GB", MACHINE, min=0, show_default="what is free here"),
    ] = None,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Tell the tokens and the memory that a question about a file would take, and whether that fits.

    Nothing is loaded or downloaded. The exit code is 0 whether it fits or not.
    """
    start_s, end_s = time_range(start, end)
    from epcli.media.probe import check_file

    check_file(media)
    from epcli.session.plan import plan as work_out
    from epcli.session.plan import to_json

    made = work_out(
        media,
        resolved.profile,
        start_s=start_s,
        end_s=end_s,
        memory_bytes=None if memory is None else round(memory * 1e9),
    )
    typer.echo(to_json(made) if json else visible(describe(made)))


def describe(made: Plan) -> str:
    """The plan for people, 80 columns wide."""
    from epcli.text import format_time, size

    head = [Path(made.media["path"]).name, format_time(made.media["duration_s"])]
    if made.media["frames"]:
        head.append("{} frames of {}x{}".format(made.media["frames"], *made.media["frame_size"]))
    head += [made.model, f"{made.device} {made.dtype}"]
    head += [made.quantize] if made.quantize != "none" else []
    head += [f"selector {made.selector}"] if made.selector != "none" else []
    lines = [" · ".join(head), "", f"{'tokens':12}{'total':>10}{'kept':>10}"]
    for name, count in made.tokens.items():
        lines.append(f"{name:12}{count['total']:>10,}{count['kept']:>10,}")
    used, limit = made.context["used"], made.context["limit"]
    lines += ["", f"context     {used:,} of {limit:,} tokens" + ("" if used <= limit else ": does not fit"), ""]
    words = {
        "language_model": "language model",
        "towers": "towers",
        "sieve": "sieve",
        "frames_and_samples": "frames, samples",
        "looking": "looking",
        "listening": "listening",
        "token_embeddings": "embeddings",
        "choosing": "choosing",
        "prefill": "prefill",
        "kv_cache": "KV cache",
    }
    lines.append(f"{'memory':18}{'':>10}")
    lines += [f"{words[name]:18}{size(amount):>10}" for name, amount in made.memory.items() if amount]
    stage = max(made.stages, key=lambda name: made.stages[name])
    lines += [f"{'at most':18}{size(made.peak):>10}  (stage {stage}, libraries included)", ""]
    free, fits = made.available["bytes"], made.available["fits"]
    if fits is None:
        lines.append(f"whether it fits is not known: {made.available['what']}")
    else:
        lines.append(f"{'fits' if fits else 'does not fit'}: {size(free)} {made.available['what']}")
    lines += [f"  {line}" for line in made.advice]
    lines += [f"note: {line}" for line in made.notes]
    return "\n".join(lines)
