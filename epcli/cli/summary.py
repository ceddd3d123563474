"""`ep summary`: the chapters of a file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

from epcli import streams
from epcli.cli.options import (
    OUTPUT,
    DebugFlag,
    EndFlag,
    JsonFlag,
    LanguageFlag,
    SpeechFlag,
    StartFlag,
    option,
    path_argument,
    settings,
    time_range,
)
from epcli.cli.screen import StatusLine, check_first
from epcli.config import Resolved
from epcli.errors import UsageError
from epcli.text import did_you_mean, format_time, one_line, visible

LISTS = ("ffmetadata", "youtube")


@settings("video", "audio", "audio_track", "video_track", "model", "max_new_tokens", "machine")
def summary(
    media: Annotated[Path, path_argument("Video or sound file.", "MEDIA")],
    *,
    start: StartFlag = None,
    end: EndFlag = None,
    resolved: Resolved,
    language: LanguageFlag = None,
    speech: SpeechFlag = "tiny.en",
    chapters: Annotated[
        str | None,
        option(
            "Write the chapters for ffmpeg (ffmetadata), or as a list for a description on YouTube (youtube).",
            "ffmetadata|youtube",
            OUTPUT,
            show_default="a readable summary",
        ),
    ] = None,
    json: JsonFlag = False,
    quiet: Annotated[bool, option("Show no progress and no warnings.", "", OUTPUT, "--quiet", "-q")] = False,
    debug: DebugFlag = False,
) -> None:
    """Cut a file into chapters, and say what each is about.

    A chapter ends where words, scene and sound change. With ep-smol its sentence lists what was observed, and a
    line that was said. Another model (--model) is asked about each chapter. Long files are read piece by piece.
    """
    start_s, end_s = time_range(start, end)
    if chapters is not None and chapters not in LISTS:
        raise UsageError(f"--chapters {chapters}: is none of {', '.join(LISTS)}{did_you_mean(chapters, LISTS)}")
    if chapters is not None and json:
        raise UsageError("--chapters and --json are two forms: give one of them")
    streams.check_output()
    check_first(media, resolved)
    status = StatusLine(not quiet)
    status.show("loading …")

    def progress(done_s: float, of_s: float) -> None:
        status.show(f"observing, {format_time(int(done_s))} of {format_time(int(of_s))}")

    try:
        import torch

        from epcli.observe.listen import Ears
        from epcli.observe.speech import TINY, load_speech
        from epcli.report import summary as views
        from epcli.session.device import choose_device
        from epcli.session.summary import summarise

        if resolved.profile.threads:
            torch.set_num_threads(resolved.profile.threads)
        ears = None
        if speech != TINY or language is not None:
            ears = Ears.load(load_speech(speech, language, choose_device(resolved.profile)))
        made = summarise(
            media,
            resolved.profile,
            ears,
            start_s=start_s,
            end_s=end_s,
            on_stage=status.show,
            on_progress=progress,
        )
    finally:
        status.clear()
    if json:
        text = views.to_json(made)
    elif chapters == "youtube":
        text = views.to_youtube(made)
    elif chapters == "ffmetadata":
        text = views.to_ffmetadata(made)
    else:
        text = visible(views.to_text(made, min(shutil.get_terminal_size().columns, 100)))
    sys.stdout.write(text)
    for warning in () if quiet or json else made.warnings:
        print(f"ep: warning: {one_line(warning)}", file=sys.stderr)
