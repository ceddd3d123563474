"""`ep plan`: what a question about a file would cost."""

from __future__ import annotations

from typing import Annotated

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
    """Show how many tokens and how much memory a question about a file would take, and whether that fits.

    No model is loaded or downloaded. The exit code is 0 whether it fits or not.
    """
    start_s, end_s = time_range(start, end)
    from epcli.media.probe import check_file

    check_file(media)
    from epcli.report.json import to_json
    from epcli.report.plan_console import describe
    from epcli.session.plan import plan as work_out

    made = work_out(
        media,
        resolved.profile,
        start_s=start_s,
        end_s=end_s,
        memory_bytes=None if memory is None else round(memory * 1e9),
    )
    typer.echo(to_json(made) if json else visible(describe(made)))
