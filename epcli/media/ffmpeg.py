"""Finding ffmpeg and running it on one local file. Nothing outside this module starts a program.

What keeps a hostile file from reaching anything else: the demuxer is named (`-f`) and is one of `probe.SAFE_FORMATS`,
none of which opens other files; `-format_whitelist` and `-protocol_whitelist` (local files and parts of them) hold even
if one tried; the file is given as `file:` and an absolute path, so that no name is taken for an option, a URL or a
numbered picture series; there is no shell and no stdin; time and messages are bounded.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import ffmpeg

from epcli.errors import EpError, MediaError
from epcli.text import printable

_NAME_GOES_HERE = "file:"
MAX_MESSAGES = 200  # lines of ffmpeg's messages kept of one run

# Which of ffmpeg's messages mean broken data. Errors do, but for those that healthy files cause too; a decoder started
# in the middle also complains of what it has not seen, and then only some count. Some warnings count always.
_HARMLESS = re.compile(
    r"co located POCs unavailable|mmco: unref short|unable to decode APP fields|invalid new backstep"
)
_PLACE = re.compile(r"\[[^\]]* @ 0x[0-9a-f]+\] ?|\[(error|fatal|warning|info|panic)\] ?")  # where in ffmpeg it was said
_FAILED = re.compile(r"Error while decoding|Error submitting packet|Decoding error")
_DAMAGE = re.compile(r"corrupt|truncat|ended prematurely|CRC mismatch|changing packet size", re.IGNORECASE)
# What a decoder says until the first keyframe, and of pictures that lean on what came before the recording began.
_UNSEEN = re.compile(
    r"non-existing [PSV]PS|[PSV]PS id out of range|no frame!|decode_slice_header error|[Mm]issing reference picture"
    r"|reference picture missing|Could not find ref with POC|Error constructing the frame RPS|Invalid frame dimensions"
    r"|sps_id \d+ out of range|Error submitting packet|Error while decoding stream|number of reference frames"
)
_SPEAKER = re.compile(r"\[([^\]@]+) @ 0x")  # "[h264 @ 0x55d6]", "[aist#0:1/aac @ 0x55d7]"
_ITS_STREAM = re.compile(r"[av]ist#0:(\d+)|[Ss]tream #0:(\d+)|\bstream (?:= )?(\d+)")


class Deadline:
    """A point in time that all work on one file shares, on any thread."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._children: set[subprocess.Popen[bytes]] = set()

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    def stop(self) -> None:
        """End now: kill what runs and let nothing start."""
        self._end = 0.0
        for child in list(self._children):
            child.kill()

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        self._children.add(child)

    def forget(self, child: subprocess.Popen[bytes]) -> None:
        self._children.discard(child)

    def error(self, path: Path) -> MediaError:
        return MediaError(
            f"{name(path)}: reading did not finish within {self.seconds:g} s; "
            "the file may be damaged, or ask for a shorter range (--start, --end)"
        )


def name(path: Path) -> str:
    """The file's name for a one-line message, whatever characters it holds."""
    label = path.name or str(path)  # "." and "/" have no name
    return label if label.isprintable() else repr(label)


@dataclass(frozen=True)
class Binary:
    """One ffmpeg program."""

    path: str
    version: str  # as it calls itself: "5.1.9-0+deb12u1", "n9.0.2-17-g2a571b6068"

    @property
    def numbers(self) -> tuple[int, int]:
        """Major and minor version; a build from git without a number counts as new."""
        found = re.match(r"n?(\d+)\.(\d+)", self.version)
        return (int(found[1]), int(found[2])) if found else (99, 0)


def find() -> Binary:
    """The ffmpeg on PATH, else the one in the imageio-ffmpeg wheel. Raises MediaError if there is none that runs."""
    path = shutil.which("ffmpeg")
    if path is None:
        import imageio_ffmpeg

        try:
            path = imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError:
            raise MediaError("ffmpeg was not found; install it, or run: pip install imageio-ffmpeg") from None
    return _identify(path)


def decoders(binary: Binary) -> set[str]:
    """What it can decode: names of its decoders, and of the codecs that they are for."""
    command = [binary.path, "-hide_banner", "-decoders"]
    run = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60
    )
    # " V....D libdav1d             dav1d AV1 decoder by VideoLAN (codec av1)"
    return set(re.findall(r"^ [VA][A-Z.]{5} ([\w-]+)", run.stdout, re.MULTILINE)) | set(
        re.findall(r"\(codec (\w+)\)", run.stdout)
    )


@lru_cache
def _identify(path: str) -> Binary:
    try:
        run = subprocess.run([path, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as problem:
        raise MediaError(f"{path} does not run as ffmpeg ({type(problem).__name__}); install ffmpeg again") from None
    found = re.match(rb"ffmpeg version (\S+)", run.stdout)
    return Binary(path, found[1].decode(errors="replace") if found else "unknown")


def _url(path: Path, span: tuple[int, int] | None = None) -> str:
    """The file as ffmpeg opens it; `span`: only these bytes of it, from the first to before the last."""
    whole = "file:" + os.path.abspath(path)
    return whole if span is None else f"subfile,,start,{span[0]},end,{span[1]},,:{whole}"


def source(demuxer: str, **options: Any) -> Any:
    """The file to read as an ffmpeg-python input with absolute timestamps; `options` are further input options.

    Timestamps stay those of the file (`-copyts`), and `ss` counts on the same axis (`-seek_timestamp`): different
    versions of ffmpeg and PyAV do not agree to the millisecond on where a file starts. `command` puts the name in:
    ffmpeg-python cannot hold a file name that is not Unicode.
    """
    return ffmpeg.input(
        _NAME_GOES_HERE,
        f=demuxer,
        format_whitelist=demuxer,
        protocol_whitelist="file",
        copyts=None,
        seek_timestamp=1,
        **options,
    )


def command(output: Any, path: Path, span: tuple[int, int] | None = None) -> list[str]:
    """The command line of an ffmpeg-python output on `path`; `fps_mode` is spelt as the ffmpeg found understands it."""
    binary = find()
    args: list[str] = ffmpeg.compile(
        output, cmd=[binary.path, "-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+warning"]
    )
    args[args.index(_NAME_GOES_HERE)] = _url(path, span)
    if span is not None:
        args[args.index("-protocol_whitelist") + 1] = "file,subfile"
    if binary.numbers < (5, 1):
        args = ["-vsync" if arg == "-fps_mode" else arg for arg in args]
    return args


@dataclass(frozen=True)
class MessageFilter:
    """Which of ffmpeg's messages are about the stream that is decoded: it also talks about the file's other streams."""

    stream: int  # number in the file
    codecs: frozenset[str]  # names of its codec and decoder
    others: frozenset[str]  # of the other streams
    mid_group: bool = False  # the first pictures lean on others from before the recording
    open_ended: bool = False  # no header tells its length, so that the end of the file is no "corrupt" packet

    def concerns(self, line: str) -> bool:
        """Whether the message may be about the stream: not where it names another one, another's decoder or a muxer."""
        speaker = _SPEAKER.search(line)
        sender = speaker[1] if speaker else ""
        if sender.startswith("out#") or sender == "nut" or "to muxer" in line:
            return False
        if number := _ITS_STREAM.search(line):
            return int(next(filter(None, number.groups()))) == self.stream
        return not any(name in sender for name in self.others) or any(name in sender for name in self.codecs)


class Process(AbstractContextManager["Process"]):
    """A running ffmpeg whose stdout is read by the caller; killed at the deadline, or when the `with` block ends.

    After `finish()`: `messages`, the levelled lines of stderr (bounded), and `status`, the exit status.
    """

    def __init__(self, output: Any, path: Path, deadline: Deadline, span: tuple[int, int] | None = None) -> None:
        """`span`: only these bytes of the file."""
        self.path, self.deadline, self._span = path, deadline, span
        self.messages: list[str] = []
        self.status = 0
        self._timed_out = threading.Event()
        try:
            self._child = subprocess.Popen(
                command(output, path, span), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as problem:
            raise MediaError(f"ffmpeg could not be started for {name(path)}: {problem.strerror}") from None
        assert self._child.stdout is not None
        self.stdout: IO[bytes] = self._child.stdout
        deadline.watch(self._child)
        self._timer = threading.Timer(min(deadline.remaining(), threading.TIMEOUT_MAX), self._expire)
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._timer.daemon = True
        self._timer.start()
        self._reader.start()

    def _expire(self) -> None:
        self._timed_out.set()
        self._child.kill()

    def _collect(self) -> None:
        """Read stderr to its end, so that ffmpeg never waits for us, keeping the first line of each kind."""
        assert self._child.stderr is not None
        kinds: set[str] = set()
        for line in self._child.stderr:
            if len(self.messages) < MAX_MESSAGES:
                message = line[:500].decode(errors="replace").strip()
                kind = re.sub(r"\d+", "0", re.sub("0x[0-9a-f]+", "0", message))
                if kind not in kinds:
                    kinds.add(kind)
                    self.messages.append(message)

    def finish(self) -> None:
        """Wait for the end. Raises MediaError if the deadline came first."""
        self.status = self._child.wait()
        self._reader.join()
        if self._timed_out.is_set():
            raise self.deadline.error(self.path)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        self.deadline.forget(self._child)
        self._reader.join()
        self.stdout.close()
        if self._child.stderr is not None:
            self._child.stderr.close()

    def damage(self, about: MessageFilter, from_start: bool) -> list[str]:
        """The messages that say that the decoded stream is broken, cleaned for the user.

        `from_start`: nothing of the file was skipped.
        """
        lines = [line for line in self.messages if about.concerns(line)]
        errors = [line for line in lines if _is_error(line) and not _HARMLESS.search(line)]
        if about.mid_group:
            errors = [line for line in errors if not _UNSEEN.search(line)]
        if not from_start:
            errors = [line for line in errors if _FAILED.search(line) or _DAMAGE.search(line)]
        warnings = [line for line in lines if not _is_error(line) and _DAMAGE.search(line) and not about.open_ended]
        return [self._clean(line) for line in errors + warnings]

    def reason(self) -> str:
        """Why it failed, in ffmpeg's own words: its first error."""
        if self.status < 0:
            return f"ffmpeg crashed, signal {-self.status}; try another version of ffmpeg"
        errors = [line for line in self.messages if _is_error(line)]
        return self._clean((errors or self.messages or ["ffmpeg gave no reason"])[0])

    def _clean(self, line: str) -> str:
        line = _PLACE.sub("", line)
        line = line.replace(_url(self.path, self._span), name(self.path))
        line = printable(line, "?").strip(" .")
        return line if len(line) <= 160 else line[:157] + "..."


def _is_error(line: str) -> bool:
    return "[error]" in line or "[fatal]" in line


def encode(inputs: Sequence[Any], target: Path, path: Path, chunks: Iterable[bytes] = (), **options: Any) -> None:
    """Make the file `target` of ffmpeg-python inputs and output options, `chunks` on the standard input (`pipe:0`).

    `path` is what the error names. Raises EpError with ffmpeg's own words.
    """
    output = ffmpeg.output(*inputs, _NAME_GOES_HERE, **options)
    args = ffmpeg.compile(output, cmd=[find().path, "-hide_banner", "-nostats", "-loglevel", "error", "-y"])
    args[args.index(_NAME_GOES_HERE)] = _url(target)
    with TemporaryFile() as messages:
        try:
            child = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages)
        except OSError as problem:
            raise MediaError(f"ffmpeg could not be started for {name(path)}: {problem.strerror}") from None
        try:
            assert child.stdin is not None
            with suppress(BrokenPipeError):  # it gave up; what it says comes below
                for chunk in chunks:
                    child.stdin.write(chunk)
            with suppress(BrokenPipeError):
                child.stdin.close()
            status = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if status:
            raise EpError(f"{name(path)}: ffmpeg could not write it: {_last_words(messages, path)}")


def copy_part(
    path: Path,
    demuxer: str,
    span: tuple[int, int] | None,
    start_s: float,
    duration_s: float,
    streams: Sequence[int],
    target: Path,
    deadline: Deadline,
    options: Sequence[str],
) -> None:
    """Write some seconds of a file, counted from its beginning, to `target`.

    `streams`: their numbers in the file; `options`: how they are encoded. Raises MediaError with ffmpeg's own
    words, EpError if the disk is full.
    """
    arguments = [find().path, "-hide_banner", "-nostdin", "-nostats", "-loglevel", "error", "-y"]
    arguments += ["-f", demuxer, "-format_whitelist", demuxer]
    arguments += ["-protocol_whitelist", "file" if span is None else "file,subfile"]
    arguments += ["-ss", f"{start_s:.6f}", "-t", f"{duration_s:.6f}", "-i", _url(path, span)]
    for stream in streams:
        arguments += ["-map", f"0:{stream}"]
    arguments += ["-map_metadata", "-1", *options, _url(target)]
    with TemporaryFile() as messages:
        try:
            child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=messages)
        except OSError as problem:
            raise MediaError(f"ffmpeg could not be started for {name(path)}: {problem.strerror}") from None
        deadline.watch(child)
        try:
            status = child.wait(deadline.remaining())
        except subprocess.TimeoutExpired:
            raise deadline.error(path) from None
        finally:
            deadline.forget(child)
            if child.poll() is None:
                child.kill()
                child.wait()
        if status:
            raise MediaError(f"{name(path)}: cannot be cut: {_last_words(messages, path)}")


def _last_words(messages: IO[bytes], path: Path) -> str:
    """The last line of what ffmpeg said. Raises EpError if it said that the disk is full."""
    messages.seek(0)
    said = messages.read().decode(errors="replace")
    if (full := os.strerror(errno.ENOSPC)) in said:
        raise EpError(f"{name(path)}: cannot be written: {full}")
    last = (said.strip().splitlines() or ["ffmpeg gave no reason"])[-1]
    return printable(_PLACE.sub("", last), "?")


def read_into(stream: IO[bytes], room: memoryview) -> int:
    """Fill `room` from a pipe; the number of bytes read, less than asked only at the end."""
    done = 0
    while done < len(room):
        count = stream.readinto(room[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done
