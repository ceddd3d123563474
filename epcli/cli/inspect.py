"""`ep inspect`: what was kept of a file, and why the answer."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from epcli import streams
from epcli.cli.options import (
    OUTPUT,
    TOKENS,
    DebugFlag,
    EndFlag,
    MediaArgument,
    Shown,
    StartFlag,
    argument,
    given,
    option,
    path_option,
    settings,
    time_range,
)
from epcli.cli.screen import Screen, check_first, working
from epcli.config import Resolved
from epcli.errors import UsageError
from epcli.files import check_output, whole
from epcli.text import as_question, one_line, size

if TYPE_CHECKING:
    from epcli.records import Inspection


@dataclass(frozen=True)
class Outputs:
    """What is written, where, and how much of it."""

    show_kept_tokens: Annotated[
        bool, option("Also show what was kept of the most important frames.", "", OUTPUT, "--show-kept-tokens")
    ] = False
    html: Annotated[
        Path | None,
        path_option("Write one self-contained page: frames, sound and every keep share.", "FILE", OUTPUT),
    ] = None
    no_media: Annotated[bool, option("Leave pictures and sound out of the page.", "", OUTPUT, "--no-media")] = False
    png: Annotated[
        Path | None, path_option("Write a contact sheet: the frames, with dropped parts dimmed.", "FILE", OUTPUT)
    ] = None
    film: Annotated[
        Path | None,
        path_option("Write the clip as MP4, with dropped parts dimmed.", "FILE", OUTPUT, "--video"),
    ] = None

    def check(self, media: Path) -> None:
        """Raises UsageError for a file that cannot be written, is the clip itself, or is named twice."""
        from epcli.media.probe import probe

        taken: dict[str, str] = {}
        files = ((self.html, "--html", ""), (self.png, "--png", ".png"), (self.film, "--video", ".mp4"))
        for path, flag, suffix in files:
            if path is not None:
                check_output(path, flag, suffix=suffix, source=media)
                if (other := taken.setdefault(os.path.realpath(path), flag)) != flag:
                    raise UsageError(f"{flag} {path}: {other} is written there; name another file")
        if self.film is not None and probe(media).is_image:
            raise UsageError(f"--video: {media.name} is a still picture; --png shows what was kept of it")

    def write(self, found: Inspection, screen: Screen, video_track: int | None) -> None:
        """The files that are asked for, each whole or not at all."""
        if self.png is not None:
            from epcli.report.draw import contact_sheet

            with whole(self.png) as partial:
                partial.write_bytes(contact_sheet(found))
            _wrote(self.png)
        if self.film is not None:
            _write_film(found, self.film, screen, video_track)
            _wrote(self.film)
        if self.html is not None:
            from epcli.report.html import to_html

            with whole(self.html) as partial:
                partial.write_text(to_html(found, media=not self.no_media), encoding="utf-8")
            _wrote(self.html)


# --video is where the film goes.
@settings(
    "look",
    "answer",
    "tokens",
    "machine",
    video=Shown(meaning="Do not look at the picture", only_off=True),
    audio=Shown(meaning="Do not listen to the sound", only_off=True),
)
def inspect(
    media: MediaArgument,
    questions: Annotated[
        list[str] | None,
        argument("What to ask; several are shown side by side.", "QUESTION...", "what happens in the clip"),
    ] = None,
    *,
    start: StartFlag = None,
    end: EndFlag = None,
    resolved: Resolved,
    compare: Annotated[
        str | None, option("Selectors to show side by side, such as cs2,uniform,random.", "NAME,NAME...", TOKENS)
    ] = None,
    outputs: Outputs,
    json: Annotated[bool, option("Print one JSON object with each kept token.", "", OUTPUT, "--json")] = False,
    quiet: Annotated[
        bool, option("Print nothing; use it with --html, --png or --video.", "", OUTPUT, "--quiet", "-q")
    ] = False,
    debug: DebugFlag = False,
) -> None:
    """Show which sound and picture tokens of a file were kept, and which of them carried the answer.

    Asks the question as `ep ask` does, with the same settings.
    """
    questions = [as_question(question) for question in questions or []]
    start_s, end_s = time_range(start, end)
    selectors = _selectors(compare, resolved)
    if outputs.film is not None and max(len(selectors), 1) * max(len(questions), 1) > 1:
        raise UsageError("--video shows one question and one selector: leave out the others or --compare")
    if outputs.no_media and outputs.html is None:
        raise UsageError("--no-media is about the page that --html writes: give --html too")

    check_first(media, resolved)
    outputs.check(media)
    if not quiet:
        streams.check_output()
    with working(resolved, quiet=quiet, json=json) as screen:
        from epcli.compat import import_transformers

        import_transformers()
        from epcli.session import inspection  # the model libraries load here

        found = inspection.inspect(
            media,
            questions,
            resolved.profile,
            selectors,
            start_s=start_s,
            end_s=end_s,
            on_stage=screen.stage,
            on_progress=screen.progress,
            chosen=resolved.chosen(),
        )
    outputs.write(found, screen, resolved.profile.video_track)
    if json:
        from epcli.report.inspect_json import to_json

        print(to_json(found))
    elif not quiet:
        _show(found, outputs.show_kept_tokens)


def _selectors(compare: str | None, resolved: Resolved) -> list[str]:
    """The names in --compare, none without it. Raises UsageError."""
    if compare is None:
        return []
    if "--selector" in given(resolved):
        raise UsageError("--compare and --selector both name selectors: give one of them")
    names = [name.strip() for name in compare.split(",")]
    if not all(names):
        raise UsageError(f"--compare {compare!r}: name selectors with commas between them, as in cs2,uniform,random")
    return names


def _show(found: Inspection, grids: bool) -> None:
    from rich.console import Console

    from epcli.report.inspect_console import print_inspection

    console = Console(highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
    print_inspection(found, console, grids=grids)


def _write_film(found: Inspection, path: Path, screen: Screen, video_track: int | None) -> None:
    """The clip under the first run, with the sound as it was heard."""
    from epcli.media import play
    from epcli.media.write import write
    from epcli.report import draw

    (start, end), size_, fps = found.range_s, draw.film_size(found), draw.film_fps(found)
    seen = found.preview.frames is not None
    if seen:
        frames = play.frames(found.info.path, start, end, size_, fps, video_track)
    else:
        frames = draw.blank(found, size_, fps)
    drawn = draw.film(found, found.runs[0], frames, fps)
    drawn_frames = draw.with_progress(
        drawn, round((end - start) * fps), lambda share: screen.stage(f"drawing {share:.0%}")
    )
    try:
        write(path, drawn_frames, fps, found.preview.samples)
    finally:
        screen.close()


def _wrote(path: Path) -> None:
    print(f"ep: wrote {one_line(str(path))} ({size(path.stat().st_size)})", file=sys.stderr)
