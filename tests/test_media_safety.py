"""A file is only ever opened as that one local file, whatever it says it is.

Each attack is first let loose on a bare ffmpeg, to see that the trap notices it; then on ours.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import media_samples as samples
import pytest
from media_samples import SMALL, each_ffmpeg

from epcli.errors import MediaError
from epcli.media import ffmpeg
from epcli.media.ffmpeg import Deadline, Process, source
from epcli.media.probe import SAFE_FORMATS, probe
from epcli.media.read import read

__all__ = ["each_ffmpeg"]  # a fixture

IN_OPEN = 0x20  # inotify(7)


class Listener:
    """A loopback server that counts who calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.calls += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    yield server
    server.close()


class Secret:
    """A real media file next to the attack that nobody may open; the kernel tells if someone did."""

    def __init__(self, folder: Path) -> None:
        if sys.platform != "linux":
            pytest.skip("needs inotify")
        self.path = folder / "secret.mkv"
        self.path.write_bytes(samples.shared_film("plain.mkv").read_bytes())
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._events = self._libc.inotify_init1(os.O_NONBLOCK)
        assert self._libc.inotify_add_watch(self._events, os.fsencode(self.path), IN_OPEN) >= 0

    def was_opened(self) -> bool:
        """Since the last time this was asked."""
        try:
            return bool(os.read(self._events, 65536))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._events)


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Secret]:
    watched = Secret(tmp_path)
    yield watched
    watched.close()


def bare_ffmpeg(*args: str | Path) -> None:
    """ffmpeg as a careless program would start it."""
    command = [ffmpeg.find().path, "-nostdin", "-v", "quiet", *map(str, args), "-f", "null", "-"]
    subprocess.run(command, stdin=subprocess.DEVNULL, timeout=30, check=False)


def hls(target: str) -> str:
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"


def dash(target: str) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT3S" profiles="urn:mpeg:dash:profile:isoff-main:2011">'
        '<Period><AdaptationSet mimeType="video/mp4">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL><SegmentList duration="3">'
        f'<SegmentURL media="{target}"/></SegmentList></Representation></AdaptationSet></Period></MPD>'
    )


FILE_ATTACKS = {  # script, and how a bare ffmpeg is made to follow it
    "concat": (lambda path: f"ffconcat version 1.0\nfile '{path}'\n", ("-safe", "0", "-f", "concat")),
    "hls": (lambda path: hls(str(path)), ("-allowed_extensions", "ALL", "-f", "hls")),
    "dash": (lambda path: dash(str(path)), ("-f", "dash")),
}


@pytest.mark.parametrize("disguise", ["movie.mp4", "list.m3u8", "picture.png"])
@pytest.mark.parametrize("attack", FILE_ATTACKS)
def test_a_list_of_files_is_refused_and_its_files_are_not_opened(
    attack: str, disguise: str, tmp_path: Path, secret: Secret
) -> None:
    script, options = FILE_ATTACKS[attack]
    path = tmp_path / disguise
    path.write_text(script(secret.path))
    if attack != "dash":  # which ffmpeg may be built without, and which is choosy about segments
        bare_ffmpeg(*options, "-i", path)
        assert secret.was_opened(), "the trap should notice a bare ffmpeg"
    with pytest.raises(MediaError, match=f"{disguise}: not a "):
        read(path, SMALL)
    with pytest.raises(MediaError):
        probe(path)
    assert not secret.was_opened()


@pytest.mark.parametrize("disguise", ["movie.mp4", "list.m3u8"])
@pytest.mark.parametrize("attack", ["hls", "dash", "sdp", "concat", "svg", "rtsp"])
def test_a_file_that_points_to_the_network_is_refused_and_nothing_is_called(
    attack: str, disguise: str, tmp_path: Path, listener: Listener
) -> None:
    address = f"http://127.0.0.1:{listener.port}/x.ts"
    scripts = {
        "hls": hls(address),
        "dash": dash(address),
        "concat": f"ffconcat version 1.0\nfile '{address}'\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {listener.port} RTP/AVP 96\n",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{address}"/></svg>',
        "rtsp": f"RTSPtextRTSP://127.0.0.1:{listener.port}/x\n",
    }
    path = tmp_path / disguise
    path.write_text(scripts[attack])
    if attack == "hls":
        bare_ffmpeg("-protocol_whitelist", "file,http,tcp", "-allowed_extensions", "ALL", "-f", "hls", "-i", path)
        assert listener.calls > 0, "the trap should notice a bare ffmpeg"
        listener.calls = 0
    with pytest.raises(MediaError, match=f"{disguise}: not a "):
        read(path, SMALL)
    assert listener.calls == 0


@pytest.mark.parametrize("as_path", [True, False])
@pytest.mark.parametrize("scheme", ["http", "tcp", "rtmp", "rtsp"])
def test_an_address_is_not_a_file(scheme: str, as_path: bool, listener: Listener) -> None:
    address = f"{scheme}://127.0.0.1:{listener.port}/movie.mp4"
    with pytest.raises(MediaError, match=r"movie\.mp4: no such file; only local files are read, download it first"):
        read(Path(address) if as_path else address, SMALL)
    assert listener.calls == 0


@pytest.mark.parametrize(
    "name", ["concat:secret.mkv|secret.mkv", "subfile,,start,0,end,99,,:secret.mkv", "cache:secret.mkv"]
)
def test_a_protocol_in_front_of_a_name_is_part_of_the_name(
    name: str, tmp_path: Path, secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError, match="no such file"):
        read(name, SMALL)
    assert not secret.was_opened()
    Path(name).write_bytes(samples.shared_film("plain.mp4").read_bytes())  # and a file of that name is that file
    assert probe(name).container.startswith("mov")
    assert read(name, SMALL).frames is not None
    assert not secret.was_opened()


def boxes(data: bytes, kinds: list[bytes], begin: int, end: int) -> list[int]:
    """Offsets of nested MP4 boxes: the first of kinds[0], within it the first of kinds[1], ..."""
    while begin < end:
        (size,) = struct.unpack(">I", data[begin : begin + 4])
        if data[begin + 4 : begin + 8] == kinds[0]:
            return [begin, *(boxes(data, kinds[1:], begin + 8, begin + size) if kinds[1:] else [])]
        begin += size
    raise AssertionError(f"no box {kinds[0]!r}")


def with_external_data(film: bytes, filename: str) -> bytes:
    """The QuickTime film with its first track's data said to be in another file (an alias record)."""
    places = boxes(film, [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"], 0, len(film))
    target = b"/" + filename.encode() + b"\0" * ((1 + len(filename)) % 2)
    record = bytes(4) + bytes(10) + bytes([0]) + bytes(27) + bytes(12) + bytes([len(filename)])
    record += filename.encode().ljust(63, b"\0") + bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
    record += struct.pack(">HH", 2, len(target)) + target + struct.pack(">HH", 0xFFFF, 0)
    record = struct.pack(">I", len(record) + 8) + b"alis" + record
    (old,) = struct.unpack(">I", film[places[-1] : places[-1] + 4])
    reference = struct.pack(">I", 16 + len(record)) + b"dref" + struct.pack(">II", 0, 1) + record
    patched = bytearray(film)
    for place in places[:-1]:
        (size,) = struct.unpack(">I", film[place : place + 4])
        patched[place : place + 4] = struct.pack(">I", size + len(reference) - old)
    patched[places[-1] : places[-1] + old] = reference
    return bytes(patched)


def test_a_quicktime_film_does_not_fetch_its_data_from_another_file(
    each_ffmpeg: str, tmp_path: Path, secret: Secret
) -> None:
    path = tmp_path / "movie.mov"
    path.write_bytes(with_external_data(samples.shared_film("plain.mov").read_bytes(), secret.path.name))
    bare_ffmpeg("-enable_drefs", "1", "-i", path)
    assert secret.was_opened(), "the trap should notice a bare ffmpeg that follows references"
    clip = read(path, SMALL)
    assert clip.frames is None
    assert clip.samples is not None, "the sound's data are in the file itself"
    assert clip.warnings == ("movie.mov: shows no picture from 0:00 to 0:03",)
    assert not secret.was_opened()


def test_even_a_demuxer_that_opens_addresses_may_not_when_started_here(
    each_ffmpeg: str, tmp_path: Path, listener: Listener
) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text(hls(f"http://127.0.0.1:{listener.port}/x.ts"))
    output = source("hls")["0"].output("pipe:1", format="nut")
    with Process(output, path, Deadline(20)) as process:
        assert process.stdout.read() == b""
        process.finish()
    assert process.status != 0
    assert listener.calls == 0


def test_formats_that_open_further_files_are_not_on_the_list() -> None:
    openers = "applehttp avisynth concat dash dvdvideo fbdev hls image2 image2pipe imf lavfi rtp rtsp sap sdp svg_pipe"
    assert not SAFE_FORMATS & set(f"{openers} tee tty v4l2 vapoursynth vobsub webm_dash_manifest x11grab".split())


@contextmanager
def recorded_commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The command lines of every ffmpeg started meanwhile; they run as ever."""
    seen: list[list[str]] = []
    original = subprocess.Popen

    class Recording(original):  # type: ignore[valid-type, misc]
        def __init__(self, args: list[str], *rest: object, **options: object) -> None:
            assert isinstance(args, list), "never through a shell"
            assert not options.get("shell")
            seen.append(args)
            super().__init__(args, *rest, **options)

    monkeypatch.setattr(subprocess, "Popen", Recording)
    yield seen


def test_every_ffmpeg_is_told_format_protocol_and_the_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "-movie %03d.mp4"
    path.write_bytes(samples.shared_film("plain.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    with recorded_commands(monkeypatch) as commands:
        read("-movie %03d.mp4", SMALL)
    decoders = [args for args in commands if "-i" in args]
    assert len(decoders) == 2  # picture, sound
    for args in decoders:
        pairs = list(pairwise(args))
        assert ("-i", f"file:{path}") in pairs
        assert ("-f", "mov") in pairs[: args.index("-i")]
        assert ("-format_whitelist", "mov") in pairs
        assert ("-protocol_whitelist", "file") in pairs
        assert "-nostdin" in args
