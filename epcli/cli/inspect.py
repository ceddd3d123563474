"""`ep inspect`: what was kept of a file, and why the answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epcli.cli.ask import Screen
from epcli.cli.options import (
    ANSWER,
    LOOK,
    MACHINE,
    OUTPUT,
    TOKENS,
    DebugFlag,
    EndFlag,
    ProfileFlag,
    StartFlag,
    setting,
    time_range,
)
from epcli.config import SETTINGS, resolve
from epcli.errors import UsageError
from epcli.files import check_output, whole
from epcli.report.units import size

if TYPE_CHECKING:
    from epcli.records import Inspection


def inspect(
    context: typer.Context,
    media: Annotated[Path, typer.Argument(help="Video, sound or picture file.", metavar="MEDIA", show_default=False)],
    questions: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to ask; several are shown side by side (default: what happens in the clip).",
            metavar="QUESTION...",
            show_default=False,
        ),
    ] = None,
    start: StartFlag = None,
    end: EndFlag = None,
    fps: Annotated[str | None, setting("fps", LOOK, "NUMBER")] = None,
    max_frames: Annotated[str | None, setting("max_frames", LOOK, "COUNT")] = None,
    max_pixels: Annotated[str | None, setting("max_pixels", LOOK, "COUNT")] = None,
    no_video: Annotated[
        bool, typer.Option("--no-video", help="Do not look at the picture.", rich_help_panel=LOOK)
    ] = False,
    no_audio: Annotated[
        bool, typer.Option("--no-audio", help="Do not listen to the sound.", rich_help_panel=LOOK)
    ] = False,
    audio_track: Annotated[str | None, setting("audio_track", LOOK, "INDEX")] = None,
    model: Annotated[str | None, setting("model", ANSWER, "NAME|PATH")] = None,
    system: Annotated[str | None, setting("system", ANSWER, "TEXT")] = None,
    max_new_tokens: Annotated[str | None, setting("max_new_tokens", ANSWER, "COUNT")] = None,
    temperature: Annotated[str | None, setting("temperature", ANSWER, "NUMBER")] = None,
    seed: Annotated[str | None, setting("seed", ANSWER, "NUMBER")] = None,
    keep: Annotated[str | None, setting("keep", TOKENS, "SHARE|auto")] = None,
    budget: Annotated[str | None, setting("budget", TOKENS, "COUNT")] = None,
    selector: Annotated[str | None, setting("selector", TOKENS, "NAME")] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Selectors to put side by side, as in cs2,uniform,random.",
            metavar="NAME,NAME...",
            rich_help_panel=TOKENS,
            show_default=False,
        ),
    ] = None,
    show_kept_tokens: Annotated[
        bool,
        typer.Option(
            "--show-kept-tokens",
            help="Also draw the kept cells of the frames that matter most.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write one self-contained page here: frames, sound and every keep share.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    no_media: Annotated[
        bool,
        typer.Option("--no-media", help="Leave pictures and sound out of the page.", rich_help_panel=OUTPUT),
    ] = False,
    png: Annotated[
        Path | None,
        typer.Option(
            help="Write a contact sheet of the frames with what was kept.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(
            "--video",
            help="Write the clip with what was dropped dimmed, as MP4.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    profile: ProfileFlag = None,
    device: Annotated[str | None, setting("device", MACHINE)] = None,
    dtype: Annotated[str | None, setting("dtype", MACHINE)] = None,
    quantize: Annotated[str | None, setting("quantize", MACHINE)] = None,
    threads: Annotated[str | None, setting("threads", MACHINE, "COUNT")] = None,
    cache: Annotated[bool | None, setting("cache", MACHINE)] = None,
    cache_gb: Annotated[str | None, setting("cache_gb", MACHINE, "GB")] = None,
    cache_dir: Annotated[str | None, setting("cache_dir", MACHINE, "FOLDER")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with each kept token.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing; for --html, --png, --video.", rich_help_panel=OUTPUT)
    ] = False,
    debug: DebugFlag = False,
) -> None:
    """Show which sound and picture tokens were kept of a file, and what carried the answer.

    Asks the question as `ep ask` does: without --keep, a model with a trained sieve reads a fifth of the tokens, 160
    at least, and any other reads all.
    """
    flags = {name: context.params[name] for name in SETTINGS if name not in ("video", "audio")}
    flags |= {"video": False if no_video else None, "audio": False if no_audio else None}
    resolved = resolve(flags, profile)
    questions = [question.strip() for question in questions or []]
    if not all(questions):
        raise UsageError("a question is empty: say what you want to know about the file")
    start_s, end_s = time_range(start, end)
    if compare is not None and selector is not None:
        raise UsageError("--compare and --selector both name selectors: give one of them")
    selectors = [name.strip() for name in compare.split(",")] if compare is not None else []
    if compare is not None and not all(selectors):
        raise UsageError(f"--compare {compare!r}: name selectors with commas between them, as in cs2,uniform,random")
    if video is not None and max(len(selectors), 1) * max(len(questions), 1) > 1:
        raise UsageError("--video shows one question and one selector: leave out the others or --compare")
    if no_media and html is None:
        raise UsageError("--no-media is about the page that --html writes: give --html too")

    from epcli.media.probe import check_file, probe
    from epcli.models import catalog

    catalog.card(resolved.profile.model)
    check_file(media)
    taken: dict[str, str] = {}
    for path, flag, suffix in ((html, "--html", ""), (png, "--png", ".png"), (video, "--video", ".mp4")):
        if path is not None:
            check_output(path, flag, suffix=suffix, source=media)
            if (other := taken.setdefault(os.path.realpath(path), flag)) != flag:
                raise UsageError(f"{flag} {path}: {other} is written there; name another file")
    if video is not None and probe(media).is_image:
        raise UsageError(f"--video: {media.name} is a still picture; --png shows what was kept of it")

    screen = Screen(quiet=quiet, json=json)
    screen.say_where_settings_come_from(resolved)
    try:
        from epcli.session import inspection  # the model libraries load here

        found = inspection.inspect(
            media,
            questions,
            resolved.profile,
            selectors,
            start_s=start_s,
            end_s=end_s,
            on_stage=screen.stage,
            chosen=resolved.chosen(),
        )
    finally:
        screen.close()
    if png is not None:
        from epcli.report.draw import contact_sheet

        with whole(png) as partial:
            partial.write_bytes(contact_sheet(found))
        _wrote(png)
    if video is not None:
        _write_film(found, video, screen)
        _wrote(video)
    if html is not None:
        from epcli.report.html import to_html

        with whole(html) as partial:
            partial.write_text(to_html(found, media=not no_media), encoding="utf-8")
        _wrote(html)
    if json:
        from epcli.report.inspect_json import to_json

        print(to_json(found))
    elif not quiet:
        _show(found, show_kept_tokens)


def _show(found: Inspection, grids: bool) -> None:
    from rich.console import Console

    from epcli.report.inspect_console import print_inspection

    console = Console(highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
    print_inspection(found, console, grids=grids)


def _write_film(found: Inspection, path: Path, screen: Screen) -> None:
    """The clip under the first run, with the sound as it was heard."""
    from epcli.media import play
    from epcli.media.write import write
    from epcli.report import draw

    (start, end), size_, fps = found.range_s, draw.film_size(found), draw.film_fps(found)
    seen = found.preview.frames is not None
    frames = play.frames(found.info.path, start, end, size_, fps) if seen else draw.blank(found, size_, fps)
    drawn = draw.film(found, found.runs[0], frames, fps)
    told = draw.with_progress(drawn, round((end - start) * fps), lambda share: screen.stage(f"drawing {share:.0%}"))
    try:
        write(path, told, fps, found.preview.samples)
    finally:
        screen.close()


def _wrote(path: Path) -> None:
    print(f"ep: wrote {path} ({size(path.stat().st_size)})", file=sys.stderr)
