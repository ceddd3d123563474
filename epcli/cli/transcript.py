"""`ep transcript`: what is said in files, with times."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epcli import streams
from epcli.cli.options import (
    OUTPUT,
    DebugFlag,
    EndFlag,
    LanguageFlag,
    SpeechFlag,
    StartFlag,
    option,
    path_argument,
    path_option,
    settings,
    time_range,
)
from epcli.cli.screen import StatusLine
from epcli.config import Resolved
from epcli.errors import EXIT_PARTIAL, EpError, UsageError
from epcli.files import check_output, whole
from epcli.text import format_time, one_line, size

if TYPE_CHECKING:
    from epcli.observe.listen import Ears
    from epcli.records import Observation


@dataclass(frozen=True)
class Form:
    """How it is written, and where."""

    srt: Annotated[bool, option("Write SubRip subtitles.", "", OUTPUT, "--srt")] = False
    vtt: Annotated[bool, option("Write WebVTT subtitles.", "", OUTPUT, "--vtt")] = False
    json: Annotated[
        bool, option("Write one JSON object for each file, on one line, with all words.", "", OUTPUT, "--json")
    ] = False
    out: Annotated[
        Path | None,
        path_option(
            "Write to this file, or into this folder, as NAME.srt and so on.",
            "PATH",
            OUTPUT,
            show_default="standard output",
        ),
    ] = None

    def named(self) -> str:
        """ "txt", "srt", "vtt" or "json": what the flags say, else the ending of --out. Raises UsageError."""
        flags = [name for name in ("srt", "vtt", "json") if getattr(self, name)]
        if len(flags) > 1:
            raise UsageError(f"--{flags[0]} and --{flags[1]} are two forms: give one of them")
        ending = self.out.suffix[1:].lower() if self.out is not None and not _is_folder(self.out) else ""
        ending = ending if ending in ("txt", "srt", "vtt", "json") else ""
        if flags and ending and ending != flags[0]:
            raise UsageError(f"--{flags[0]} and --out {self.out} are two forms: give one of them, or another ending")
        return flags[0] if flags else ending or "txt"

    def places(self, media: Sequence[Path], ending: str) -> list[Path | None]:
        """Where the transcript of each file goes; None for standard output. Raises UsageError."""
        if self.out is None:
            if len(media) > 1 and ending in ("srt", "vtt"):
                raise UsageError(f"there are {len(media)} files; give --out FOLDER, for one {ending} file each")
            return [None] * len(media)
        if not _is_folder(self.out):
            if len(media) > 1:
                raise UsageError(
                    f"--out {self.out}: there are {len(media)} files; name a folder, as in --out {self.out}/"
                )
            check_output(self.out, "--out", source=media[0])
            return [self.out]
        if not self.out.is_dir():
            try:
                self.out.mkdir()
            except OSError as error:
                raise UsageError(f"--out {self.out}: the folder cannot be made: {error.strerror}") from None
        places = [self.out / f"{path.stem}.{ending}" for path in media]
        for place, path in zip(places, media, strict=True):
            if places.count(place) > 1:
                raise UsageError(f"--out {self.out}: two of the files would be written to {place.name}")
            check_output(place, "--out", source=path)
        return list(places)


@settings("audio_track", "device", "threads")
def transcript(
    media: Annotated[list[Path], path_argument("Video or sound files.", "FILE...")],
    *,
    start: StartFlag = None,
    end: EndFlag = None,
    resolved: Resolved,
    language: LanguageFlag = None,
    speech: SpeechFlag = "tiny.en",
    form: Form,
    quiet: Annotated[bool, option("Show no progress and no warnings.", "", OUTPUT, "--quiet", "-q")] = False,
    debug: DebugFlag = False,
) -> None:
    """Write down what is said in files, with times.

    Without --srt, --vtt or --json, the transcript is text: a line for a sentence or two, and the time at which it
    begins. Files of any length are read piece by piece.
    """
    start_s, end_s = time_range(start, end)
    ending = form.named()
    places = form.places(media, ending)
    if None in places:
        streams.check_output()
    from epcli.media.probe import check_file

    if len(media) == 1:
        check_file(media[0])  # before the libraries take their seconds to load
    status = StatusLine(not quiet)
    status.show("loading the speech model …")
    try:
        import torch

        from epcli.observe.listen import Ears
        from epcli.observe.speech import load_speech
        from epcli.session.device import choose_device

        if resolved.profile.threads:
            torch.set_num_threads(resolved.profile.threads)
        ears = Ears.load(load_speech(speech, language, choose_device(resolved.profile)))
        work = Work(ears, ending, speech, (start_s, end_s), resolved.profile.audio_track, status, quiet, len(media))
        failed = [error for path, place in zip(media, places, strict=True) if (error := work.try_file(path, place))]
    finally:
        status.clear()
    if failed:
        raise typer.Exit(EXIT_PARTIAL if len(failed) < len(media) else failed[0].exit_code)


@dataclass(frozen=True)
class Work:
    """What is done with each file."""

    ears: Ears
    ending: str
    speech: str
    range_s: tuple[float | None, float | None]
    audio_track: int | None
    status: StatusLine
    quiet: bool
    files: int

    def try_file(self, path: Path, place: Path | None) -> EpError | None:
        """Write the transcript of one file. With others beside it an error is told and returned, else raised."""
        try:
            self._write(path, place)
        except EpError as error:
            if self.files == 1:
                raise
            self.status.clear()
            print(f"ep: error: {one_line(str(error))}", file=sys.stderr)
            return error
        return None

    def _write(self, path: Path, place: Path | None) -> None:
        from epcli.media.probe import probe
        from epcli.report.transcript import FORMATS, About

        info = probe(path)
        begin, end = self.range_s[0] or 0.0, min(self.range_s[1] or info.duration_s, info.duration_s)
        about = About(info, (begin, end), self.speech, lambda: getattr(self.ears.speech, "heard_language", None))
        counted = _Counted(self._words(path))
        pieces = FORMATS[self.ending](counted, about)
        if place is None:
            titled = self.files > 1 and self.ending == "txt"
            for number, piece in enumerate(pieces):
                self.status.clear()
                if titled and number == 0:
                    print(f"{one_line(str(path))}:")
                sys.stdout.write(piece)
                sys.stdout.flush()
            if titled and counted.count:
                print()
        else:
            with whole(place) as partial, partial.open("w", encoding="utf-8") as file:
                file.writelines(pieces)
        self.status.clear()
        if not self.quiet:
            if not counted.count:
                print(f"ep: {one_line(path.name)}: no speech was understood in it", file=sys.stderr)
            if place is not None:
                print(f"ep: wrote {one_line(str(place))} ({size(place.stat().st_size)})", file=sys.stderr)

    def _words(self, path: Path) -> Iterator[Observation]:
        from epcli.observe.listen import listen

        def progress(done_s: float, of_s: float) -> None:
            name = f"{one_line(path.name)}: " if self.files > 1 else ""
            self.status.show(f"{name}listening, {format_time(int(done_s))} of {format_time(int(of_s))}")

        def warn(message: str) -> None:
            if not self.quiet:
                self.status.clear()
                print(f"ep: warning: {one_line(message)}", file=sys.stderr)

        heard = listen(
            path,
            self.ears,
            start_s=self.range_s[0],
            end_s=self.range_s[1],
            audio_track=self.audio_track,
            on_progress=progress,
            on_warning=warn,
        )
        return (each for each in heard if each.kind == "word")


class _Counted(Iterable["Observation"]):
    """Words, counted as they pass."""

    def __init__(self, words: Iterator[Observation]) -> None:
        self._words = words
        self.count = 0

    def __iter__(self) -> Iterator[Observation]:
        for word in self._words:
            self.count += 1
            yield word


def _is_folder(path: Path) -> bool:
    """Whether it is a folder, or is to become one: it has no ending."""
    return path.is_dir() or not (path.suffix or path.exists())
