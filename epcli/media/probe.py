"""What a media file holds: streams, sizes, times. Read through PyAV, since the imageio-ffmpeg wheel has no ffprobe.

PyAV is given an open file object and no name, and may open nothing itself (`protocol_whitelist none`), so content alone
decides the format, and only a format of SAFE_FORMATS is ever parsed: libavformat refuses the others before it reads
their header. Playlists, scripts and lists (hls, dash, concat, sdp, imf, image2, avisynth, ...), whose headers make
ffmpeg open further files or addresses, are therefore refused under any file name.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from epcli.errors import MediaError
from epcli.media import joined, stills, upright
from epcli.media.clock import decoded_times, first_frame
from epcli.media.ffmpeg import Deadline, decoders, find, name
from epcli.media.hdr import Transfer
from epcli.media.joined import Span
from epcli.media.pixels import AS_STORED, Pixels
from epcli.media.upright import Orientation
from epcli.records import AudioTrack, MediaInfo
from epcli.text import printable

# Demuxers that read one file and follow no references. mov can (`dref`), but only with its option enable_drefs.
_JPEG_XL = ("jpegxl_pipe", "jpegxl_anim")  # PyAV has no decoder for these
_PICTURES = (
    *("png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "j2k_pipe", "jpegxl_pipe"),
    *("ppm_pipe", "pgm_pipe", "pbm_pipe", "pam_pipe"),
)
_MAYBE_PICTURES = ("gif", "apng", "jpegxl_anim")  # a picture if they hold a single frame
_RAW = ("h264", "hevc", "mpegvideo", "m4v")  # elementary streams, which have no clock but their frame rate
_FILMS = ("mov", "matroska", "avi", "mpegts", "mpeg", "ogg", "flv", "asf", "mxf", "ivf", "yuv4mpegpipe", *_RAW)
_SOUNDS = ("wav", "w64", "mp3", "aac", "flac", "aiff", "caf", "amr", "au", "ac3", "eac3", "wv")
_HEIC = ("heic", "heix", "hevc", "heim", "heis", "mif1", "msf1")  # brands; ffmpeg before 7 reads a tile as the picture
SAFE_FORMATS = frozenset((*_FILMS, *_SOUNDS, *_MAYBE_PICTURES, *_PICTURES))
# Formats without a length in a header, where libavformat estimates one from the bit rate or the last time stamps.
_ESTIMATED = frozenset(("mp3", "aac", "ac3", "eac3", "amr", "mpegts", "mpeg", "ogg", "ivf"))

# With several threads ffmpeg's decoder of these (9.0: one for all three) shows a wrong frame now and then on a busy
# machine: 13 of 180 times that the first of six frames was asked for, with three processes on 2 cores.
_ONE_THREAD = ("vp3", "vp4", "theora")

_ADTS_RATES = dict(enumerate((96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)))
_MOST_PARTS = 300
_LONG_S, _LEAST_BYTES_A_SECOND = 6 * 3600.0, 20  # the leanest speech codecs need 80
COUNT_ANEW = "count them anew, then ask again: ffmpeg -i OLD -vf setpts=N/FRAME_RATE/TB -af asetpts=N/SR/TB NEW.mp4"
_MANY_PACKETS = 30
_NO_COUNT = 1 << 30  # frames: an AVI that was written to a pipe claims these
_ENCRYPTED = "encrypted, cannot be read; ask for a copy without protection"
_UNKNOWN = "encrypted, or of a kind that is not known here"
_ENCRYPTED_TAGS = frozenset(("encv", "enca", "drmi", "drms", "aavd"))  # of MP4: common encryption, Apple's, Audible's
_MOST_BYTES = 1 << 43  # of a file: ext4 has 2^44
_MOST_CHUNKS = 64  # looked at before that of the sound
_WRAPPING = frozenset(("mpegts", "mpeg"))  # clock of 33 bits, 26.5 hours
_STREAMED = frozenset(("mpegts", "mpeg", "matroska", "flv"))  # may begin with any picture
_LONGEST_RUN_IN_S = 1.0  # of an encoder of sound: samples before the first that is meant to be heard
_LONGEST_GROUP = 3000  # packets of the picture stream searched for a keyframe

# Containers in which the packets of a picture may have no time of their own: the first packets tell.
_MAY_LACK_TIMES = ("mpeg", "mpegts")
_FIRST_PACKETS = 100
_UNTIMED = 0.1  # share of them without a time from which all frames are decoded to learn theirs

_ALPHA_CODECS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders of these drop the alpha channel
_STILL_LOOK_S = 60.0  # a stream without a second picture so far from its first is a still
_SAME_LENGTH = 0.01  # streams whose lengths differ by less, as a share of the longer one, are equally long

TICK_S = 0.0005  # two frames are never closer; timestamps of two libraries never further apart
LATEST_S = 1e9  # later than any time stamp
DEFAULT_DEADLINE_S = 600.0
_CUT_OFF_S = 1.0  # the header may be wrong by this much before the packets are believed instead


@dataclass(frozen=True)
class StreamLayout:
    """MediaInfo and what decoding needs besides. Stream times in this room are the file's own timestamps, in seconds;
    times of the public records count from `origin_s`."""

    info: MediaInfo
    demuxer: str  # ffmpeg's name for `-f`
    origin_s: float  # timestamp of the file's first picture or sound
    video_index: int | None  # stream numbers in the file
    audio_indices: tuple[int, ...]
    pixels: Pixels = AS_STORED
    default_track: int = 0  # the sound track that is heard unless another is asked for
    codecs: Mapping[int, frozenset[str]] = field(default_factory=dict)  # stream number: names of codec and decoder
    picture_from_s: float = -math.inf  # timestamp of the first keyframe, where the recording begins before it
    is_open_ended: bool = False  # was written to a pipe: its header has a length, but only as a place holder
    span: Span | None = None  # the part of the file that this is about; None: all of it
    parts: tuple[StreamLayout, ...] = ()  # of a file of several recordings, in order; empty if it is one
    warnings: tuple[str, ...] = ()
    video_tracks: tuple[str, ...] = ()  # the picture streams in words: "320x240"
    video_track: int = 0  # the one of them that is read
    decoder: str | None = None  # of the picture, if not the one that ffmpeg would take
    raw_rate: float | None = None  # frames a second of a stream that has no clock
    late_s: float = 0.0  # by how much ffmpeg's times below `late_until_s` are too early
    late_until_s: float = 0.0
    times_s: np.ndarray | None = None  # (F,) times of all frames, where the packets do not tell them

    def within(self, start_s: float, end_s: float) -> list[tuple[StreamLayout, float, float]]:
        """What covers [start_s, end_s) seconds of the file: recordings, and start and end in each."""
        if not self.parts:
            return [(self, start_s, end_s)]
        covering, begin = [], 0.0
        for part in self.parts:
            low, high = max(start_s - begin, 0.0), min(end_s - begin, part.info.duration_s)
            if low < high:
                covering.append((part, low, high))
            begin += part.info.duration_s
        return covering

    @property
    def begins_mid_group(self) -> bool:
        """Whether the first pictures lean on others from before the recording, so that no decoder can show them."""
        return self.picture_from_s > -math.inf

    @property
    def threads(self) -> int:
        """Threads that may decode the picture; 0: as many as ffmpeg likes."""
        return 1 if self.info.video_codec in _ONE_THREAD else 0

    @property
    def ahead_s(self) -> int:
        """How much later ffmpeg writes all time stamps, seconds: the nut format would move negative ones."""
        return math.ceil(max(0.0, -self.origin_s)) + 10

    @property
    def frame_s(self) -> float:
        """How long a frame is usually shown; 0.0 if unknown."""
        return 1 / self.info.frame_rate if self.info.frame_rate else 0.0

    @property
    def decoding(self) -> dict[str, object]:
        """Options of ffmpeg for the input whose picture is decoded."""
        # reinit_filter: a change of size must not make the filters forget what they have seen.
        options: dict[str, object] = {"noautorotate": None, "threads": self.threads, "reinit_filter": 0}
        return options if self.decoder is None else options | {"vcodec": self.decoder}

    @property
    def stamping(self) -> str:
        """The filter that gives frames their times, where the stream has none."""
        if self.raw_rate is not None:
            return f"setpts=N/({self.raw_rate:.9g}*TB),"
        if self.late_s:
            return f"setpts='PTS+if(lt(T,{self.late_until_s:.6f}),{self.late_s:.6f}/TB,0)',"
        return ""


def probe(path: Path | str, deadline_s: float = DEFAULT_DEADLINE_S, *, video_track: int | None = None) -> MediaInfo:
    """What the file holds, with the picture of `video_track`, or of the track that would be chosen.

    Decodes at most one picture (its rotation and size are only known then), except for streams whose packets have no
    times, which are decoded to their end. Raises MediaError if the file cannot be read, is of a format that is not
    media or refers to other files, is cut off before its first picture or sound, has neither, or lacks the track.
    """
    return inspect(Path(path), Deadline(deadline_s), video_track).info


def inspect(path: Path, deadline: Deadline, video_track: int | None = None) -> StreamLayout:
    """`probe` for this room."""
    check_file(path)
    if (layout := stills.describe(path)) is not None:
        _check_track(layout, video_track)
        return layout
    with opened(path, deadline) as container:
        demuxer = _demuxer(container)
    if demuxer == "mpegts" and joined.is_scrambled(path):
        raise MediaError(f"{name(path)}: {_ENCRYPTED}")
    spans = joined.spans(path, demuxer) if demuxer in joined.JOINABLE else []
    if len(spans) < 2:
        return _plausible(_inspect_part(path, None, video_track, deadline))
    return _plausible(_inspect_joined(path, spans, video_track, deadline))


def _inspect_part(path: Path, span: Span | None, video_track: int | None, deadline: Deadline) -> StreamLayout:
    with opened(path, deadline, span) as container:
        layout = replace(_describe(path, container, video_track, deadline), span=span)
        _check_track(layout, video_track)
        declared = _declared(container)
        untimed = layout.raw_rate is not None or _lacks_times(container, layout)
    if untimed and not layout.info.is_image:
        layout = _with_times(layout, deadline)
    elif _picture_stands_still(layout, deadline):
        warning = f"{name(path)}: all time stamps of its picture are the same; {COUNT_ANEW}"
        layout = replace(layout, warnings=(*layout.warnings, warning))
    return layout if layout.info.is_image else _measure(layout, declared, deadline)


def _inspect_joined(path: Path, spans: Sequence[Span], video_track: int | None, deadline: Deadline) -> StreamLayout:
    """A file of several recordings as one that lasts as long as all of them. It looks and sounds like the first."""
    parts, lost = [], []
    if len(spans) > _MOST_PARTS:
        raise MediaError(
            f"{name(path)}: its clock jumps {len(spans) - 1} times; write it anew: ffmpeg -i OLD -c copy NEW.mkv"
        )
    for span in spans:
        try:
            parts.append(_inspect_part(path, span, video_track, deadline))
        except MediaError as problem:
            if not deadline.remaining():
                raise
            lost.append(problem)
    if not parts:
        raise lost[0]
    length = sum(part.info.duration_s for part in parts)
    first = next((part for part in parts if part.info.has_video), parts[0])
    note = f"{name(path)}: is made of {len(spans)} recordings, which are read one after another"
    note += f"; {len(lost)} of them cannot be read" if lost else ""
    return replace(
        first,
        info=replace(first.info, duration_s=length),
        # All pictures are shown at the size of the first.
        parts=tuple(
            replace(
                part,
                info=replace(part.info, width=first.info.width, height=first.info.height),
                pixels=replace(part.pixels, aspect=first.pixels.aspect),
            )
            for part in parts
        ),
        warnings=tuple(dict.fromkeys((note, *(warning for part in parts for warning in part.warnings)))),
    )


def _plausible(layout: StreamLayout) -> StreamLayout:
    """Raises MediaError if the time stamps make a day of a few bytes."""
    size, length = os.stat(layout.info.path).st_size, layout.info.duration_s
    if length > _LONG_S and size < length * _LEAST_BYTES_A_SECOND:
        raise MediaError(
            f"{name(layout.info.path)}: its time stamps tell {length / 3600:.0f} hours, far too much for {size} bytes; "
            + COUNT_ANEW
        )
    return layout


def _demuxer(container: InputContainer) -> str:
    return container.format.name.split(",")[0]


def _with_times(layout: StreamLayout, deadline: Deadline) -> StreamLayout:
    """With the times of all frames. ffmpeg counts from zero where only what it could not decode had a time stamp."""
    times = decoded_times(layout, deadline)
    if layout.begins_mid_group and len(times) and times[0] < layout.origin_s:
        jumps = np.flatnonzero(np.diff(times) > 3 * layout.frame_s)
        until = float(times[jumps[0] + 1]) - TICK_S if len(jumps) else LATEST_S
        late = layout.picture_from_s + layout.frame_s / 2 - float(times[0])
        layout = replace(layout, late_s=late, late_until_s=until)
        times = np.unique(np.where(times < until, times + late, times))
    return replace(layout, times_s=times)


def _describe(path: Path, container: InputContainer, video_track: int | None, deadline: Deadline) -> StreamLayout:
    """Everything but the length. Keeps nothing of PyAV's, which must not be used after the container is closed."""
    demuxer = _demuxer(container)
    if demuxer in _JPEG_XL:
        return _describe_jpeg_xl(path, demuxer, container, deadline)
    streams = _picture_streams(container)
    number = _chosen(container, streams, video_track)
    video = None if number is None else streams[number]
    sounds = [s for s in container.streams.audio if s.codec_context and s.codec_context.sample_rate]
    read = ([video] if video else []) + sounds
    _check_readable(path, container, read)
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in read
        if stream.start_time is not None and stream.time_base
    ]
    is_image = video is not None and not sounds and _is_still(container, video, demuxer)
    decoder, warnings = _alpha_decoder(path, video) if video else (None, ())
    warnings += _left_out(path, container, has_picture=video is not None, has_sound=bool(sounds))
    exif = upright.of_picture_file(path, demuxer) if demuxer in _PICTURES else None
    picture_from_s = _first_keyframe_s(container, video) if video and demuxer in _STREAMED else -math.inf
    width, height, pixels = _displayed(container, video, exif) if video else (0, 0, Pixels())
    info = MediaInfo(
        path=path,
        container=container.format.name,
        duration_s=0.0,
        is_image=is_image,
        width=width,
        height=height,
        frame_rate=_frame_rate(video, demuxer) if video and not is_image else None,
        video_codec=_codec(video) if video else None,
        audio_tracks=tuple(_track(number, stream) for number, stream in enumerate(sounds)),
    )
    return StreamLayout(
        info=info,
        demuxer=demuxer,
        origin_s=_origin(demuxer, starts),
        video_index=video.index if video else None,
        audio_indices=tuple(stream.index for stream in sounds),
        default_track=next((n for n, s in enumerate(sounds) if s.disposition & Disposition.default), 0),
        codecs={s.index: frozenset((s.codec_context.name, _codec(s))) for s in container.streams if s.codec_context},
        picture_from_s=picture_from_s,
        is_open_ended=_is_open_ended(path, demuxer),
        pixels=pixels if decoder is None else replace(pixels, has_alpha=True),
        warnings=warnings,
        video_tracks=tuple(f"{stream.width}x{stream.height}" for stream in streams),
        video_track=number or 0,
        decoder=decoder,
        raw_rate=(info.frame_rate or 25.0) if demuxer in _RAW else None,
    )


def _unknown_kinds(container: InputContainer) -> set[Any]:
    """Of picture and sound, those that a stream without a decoder holds."""
    return {stream.type for stream in container.streams if stream.codec_context is None} & {"video", "audio"}


def _check_readable(path: Path, container: InputContainer, streams: list[Any]) -> None:
    """Raises MediaError if none of the streams can be read, or if they are encrypted."""
    if container.metadata.get("major_brand", "").strip() in _HEIC:
        raise MediaError(f"{name(path)}: HEIC pictures are not read here; convert it to jpg")
    if not streams:
        if _unknown_kinds(container):
            raise MediaError(f"{name(path)}: {_UNKNOWN}; convert it to mp4 or mkv")
        raise MediaError(f"{name(path)}: no picture and no sound found; is it a media file, and complete?")
    if any(_is_encrypted(container, stream) for stream in streams):
        raise MediaError(f"{name(path)}: {_ENCRYPTED}")


def _left_out(path: Path, container: InputContainer, *, has_picture: bool, has_sound: bool) -> tuple[str, ...]:
    """Warnings about a picture or sound that the file has and that is not read."""
    unknown, warnings = _unknown_kinds(container), []
    if not has_picture and "video" in unknown:
        warnings.append(f"{name(path)}: the picture is {_UNKNOWN}; only the sound is read")
    elif not has_picture and any(_is_picture(stream) and not stream.width for stream in container.streams.video):
        warnings.append(
            f"{name(path)}: the picture has no keyframe, so that it cannot be shown; only the sound is read"
        )
    if not has_sound and "audio" in unknown:
        warnings.append(f"{name(path)}: the sound is {_UNKNOWN}; only the picture is read")
    return tuple(warnings)


def _is_encrypted(container: InputContainer, stream: Any) -> bool:
    """Whether the header says so (MP4, WebM), or the packets do (common encryption)."""
    with suppress(UnicodeDecodeError):  # a damaged tag
        if stream.codec_context.codec_tag in _ENCRYPTED_TAGS:
            return True
    if "enc_key_id" in stream.metadata:
        return True
    if container.format.name.split(",")[0] != "mov":
        return False
    with suppress(av.error.FFmpegError):
        _rewind(container, stream)
        first = next((packet for packet in container.demux(stream) if packet.size), None)
        return first is not None and first.has_sidedata("encryption_info")
    return False


def _is_open_ended(path: Path, demuxer: str) -> bool:
    """Whether a WAV or CAF claims a size of its sound that only says that the writer did not know it."""
    start, width = {"wav": (12, 4), "caf": (8, 8)}.get(demuxer, (0, 0))
    with open(path, "rb") as file:
        for _ in range(_MOST_CHUNKS if width else 0):
            file.seek(start)
            header = file.read(4 + width)
            size = int.from_bytes(header[4:], "little" if demuxer == "wav" else "big")
            if header[:4] == b"data":
                return not size or (size >= joined.PLACE_HOLDER and file.tell() + size > os.stat(path).st_size)
            start += 4 + width + size + (size % 2 if demuxer == "wav" else 0)
    return False


def _origin(demuxer: str, starts: list[float]) -> float:
    """The timestamp of the first picture or sound, of those of the streams."""
    first = min(starts, default=0.0)
    if demuxer in _WRAPPING or first < -_LONGEST_RUN_IN_S:
        return first  # libavformat counts a clock down to zero that wraps within a minute
    return max(0.0, first)  # an encoder's run-in (Opus in WebM: -7 ms), which decoders drop


def _first_keyframe_s(container: InputContainer, video: Any) -> float:
    """Timestamp of the first keyframe if the stream begins before it; minus infinity if it does not, or has none."""
    stamped: tuple[int, float] | None = None  # number and time of the last packet that tells one
    with suppress(av.error.FFmpegError):
        for number, packet in zip(range(_LONGEST_GROUP), container.demux(video), strict=False):
            if packet.pts is not None and not packet.is_keyframe:
                stamped = number, float(packet.pts * packet.time_base)
            if packet.is_keyframe and packet.size and number:
                if packet.pts is not None:
                    return float(packet.pts * packet.time_base)
                rate = video.average_rate  # without a time stamp of its own (MPEG-PS): by counting
                return stamped[1] + (number - stamped[0] - 0.5) / float(rate) if stamped and rate else -math.inf
            if packet.is_keyframe:
                break
    return -math.inf


def _describe_jpeg_xl(path: Path, demuxer: str, container: InputContainer, deadline: Deadline) -> StreamLayout:
    """ffmpeg decodes the first picture for its size."""
    info = MediaInfo(path, container.format.name, 0.0, True, 0, 0, None, "jpegxl", ())
    layout = StreamLayout(info, demuxer, 0.0, container.streams.video[0].index, ())
    first = first_frame(layout, deadline)
    layout = replace(
        layout,
        info=replace(info, width=first.width, height=first.height),
        pixels=Pixels(first.width / first.height, has_alpha=_has_alpha(first), transfer=_transfer(first.color_trc)),
        video_tracks=(f"{first.width}x{first.height}",),
    )
    if demuxer == "jpegxl_anim":
        times = decoded_times(layout, deadline)
        if len(times) > 1:
            rate = (len(times) - 1) / float(times[-1] - times[0])
            layout = replace(layout, info=replace(layout.info, is_image=False, frame_rate=rate), times_s=times)
    return layout


def check_file(path: Path) -> None:
    """Raises MediaError, with what to do, unless `path` is a readable local file that is not empty."""
    label = name(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(f"{label}: is a directory; give a media file")
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{label}: is not a regular file; save the media to a file first")
        if status.st_size == 0:
            raise MediaError(f"{label}: the file is empty; was it fully copied?")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        hint = "only local files are read, download it first" if ":/" in str(path) else "check the path"
        raise MediaError(f"{label}: no such file; {hint}") from None
    except PermissionError:
        raise MediaError(f"{label}: permission denied; make the file readable for you") from None
    except (OSError, ValueError) as problem:
        raise MediaError(f"{label}: cannot be read ({getattr(problem, 'strerror', None) or problem})") from None


class _LocalFile:
    """A file for libavformat without its name, which stops a parser that never ends at the deadline."""

    def __init__(self, file: BinaryIO, deadline: Deadline, span: Span) -> None:
        self._file, self._deadline = file, deadline
        self._begin, self._end = span
        file.seek(self._begin)

    def read(self, size: int) -> bytes:
        if not self._deadline.remaining():
            raise TimeoutError
        return self._file.read(max(0, min(size, self._end - self._file.tell())))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._begin, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._end}[whence]
        if not 0 <= offset + base - self._begin <= _MOST_BYTES:
            return -errno.EINVAL  # of a broken header; what an exception says would be printed
        return self._file.seek(base + offset) - self._begin

    def tell(self) -> int:
        return self._file.tell() - self._begin


@contextmanager
def opened(path: Path, deadline: Deadline, span: Span | None = None) -> Iterator[InputContainer]:
    """The file, or these bytes of it, as a PyAV container.

    FFmpeg's and the system's errors inside the block become MediaError.
    """
    label = name(path)
    options = {"format_whitelist": ",".join(sorted(SAFE_FORMATS)), "protocol_whitelist": "none"}
    try:
        with open(path, "rb") as file:
            local = _LocalFile(file, deadline, span or (0, os.stat(path).st_size))
            with av.open(
                local, format=_format(file), container_options=options, metadata_errors="replace"
            ) as container:
                assert isinstance(container, InputContainer)
                yield container
    except TimeoutError:
        raise deadline.error(path) from None
    except av.error.FFmpegError as problem:
        if problem.errno == errno.EINVAL:  # what libavformat answers if the format is not on the list
            raise MediaError(
                f"{label}: not a format that is read here (playlists and others that refer to other files never are); "
                "convert it to mp4, mkv, wav or png"
            ) from None
        raise MediaError(
            f"{label}: not a media file, or damaged, or cut off before its index was written "
            f"({_first_words(problem)}); does it play elsewhere?"
        ) from None
    except OSError as problem:
        raise MediaError(f"{label}: cannot be read ({problem.strerror})") from None


def _format(file: BinaryIO) -> str | None:
    """The demuxer of what libavformat reads but does not recognise without a name: PAM pictures."""
    place = file.tell()
    magic = file.read(3)
    file.seek(place)
    return "pam_pipe" if magic == b"P7\n" else None


def _first_words(problem: Exception) -> str:
    return str(getattr(problem, "strerror", None) or problem).split(":")[0]


def _picture_streams(container: InputContainer) -> list[Any]:
    """Those of the film; never a cover picture or thumbnails. A stream's place here is its number for users."""
    return [stream for stream in container.streams.video if _is_picture(stream) and stream.width and stream.height]


def _is_picture(stream: Any) -> bool:
    skipped = Disposition.attached_pic | Disposition.timed_thumbnails
    return bool(stream.codec_context) and not stream.disposition & skipped


def _check_track(layout: StreamLayout, wanted: int | None) -> None:
    """Raises MediaError, naming the tracks that there are, if the one wanted is not among them."""
    tracks = layout.video_tracks
    if wanted is not None and not 0 <= wanted < max(1, len(tracks)):
        has = ", ".join(f"{number} ({track})" for number, track in enumerate(tracks)) or "no pictures"
        raise MediaError(f"{name(layout.info.path)}: has no video track {wanted}; it has {has}")


def _chosen(container: InputContainer, streams: list[Any], wanted: int | None) -> int | None:
    """The number of the stream to read: a film before a still, the longest, the largest, the default, the first.

    None if there is none.
    """
    if len(streams) < 2:
        return 0 if streams else None
    if wanted is not None:
        return wanted if 0 <= wanted < len(streams) else 0  # the caller says that it is not there
    moving = _moving(container, streams)
    films = [number for number, stream in enumerate(streams) if stream.index in moving] or list(range(len(streams)))
    lengths = {number: _length(container, streams[number]) for number in films}
    longest = max(lengths.values())
    rivals = [number for number in films if lengths[number] >= longest * (1 - _SAME_LENGTH)]
    return max(
        rivals,
        key=lambda number: (
            streams[number].width * streams[number].height,
            bool(streams[number].disposition & Disposition.default),
            -number,
        ),
    )


def _moving(container: InputContainer, streams: list[Any]) -> set[int]:
    """Stream numbers of those with more than one picture."""
    moving = {stream.index for stream in streams if stream.frames > 1}
    asked = {stream.index for stream in streams if not stream.frames}
    if not asked - moving:
        return moving
    seen: set[int] = set()
    first = None
    with suppress(av.error.FFmpegError):
        for packet in container.demux(streams):
            if packet.size and packet.stream_index in seen:
                moving.add(packet.stream_index)
            seen.add(packet.stream_index)
            if packet.dts is not None and packet.time_base is not None:
                time = float(packet.dts * packet.time_base)
                first = time if first is None else first
                if asked <= moving or time - first > _STILL_LOOK_S:
                    break
    _rewind(container, streams[0])
    return moving


def _length(container: InputContainer, stream: Any) -> float:
    """Seconds, as the headers tell; infinity where they do not."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    duration = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # of Matroska
    if duration:
        return int(duration[1]) * 3600 + int(duration[2]) * 60 + float(duration[3])
    return container.duration / av.time_base if container.duration else math.inf


def _lacks_times(container: InputContainer, layout: StreamLayout) -> bool:
    """Whether many of the picture's first packets tell no time."""
    if layout.video_index is None or layout.demuxer not in _MAY_LACK_TIMES:
        return False
    stream = container.streams[layout.video_index]
    untimed = []
    with suppress(av.error.FFmpegError):
        _rewind(container, stream)
        for packet in container.demux(stream):
            if packet.size:
                untimed.append(packet.pts is None and packet.dts is None)
            if len(untimed) == _FIRST_PACKETS:
                break
    return sum(untimed) > _UNTIMED * len(untimed)


def _frame_rate(video: Any, demuxer: str) -> float | None:
    """Frames a second; None if unknown. Demuxers of elementary streams guess 25, their decoders know."""
    rate = (video.codec_context.framerate if demuxer in _RAW else None) or video.average_rate
    return float(rate) if rate else None


def _alpha_decoder(path: Path, video: Any) -> tuple[str | None, tuple[str, ...]]:
    """The decoder for VP8 and VP9 with transparency, or a warning that there is none."""
    tags = {key.lower(): value for key, value in video.metadata.items()}
    decoder = _ALPHA_CODECS.get(_codec(video))
    if decoder is None or tags.get("alpha_mode") != "1":
        return None, ()
    if decoder in decoders(find()):
        return decoder, ()
    return None, (f"{name(path)}: is transparent in places, which this ffmpeg cannot show; install one with libvpx",)


def _is_still(container: InputContainer, video: Any, demuxer: str) -> bool:
    if demuxer in _PICTURES:
        return True
    if demuxer in _MAYBE_PICTURES:
        packets = container.demux(video)
        return sum(1 for _, packet in zip(range(2), packets, strict=False) if packet.size) < 2
    return container.metadata.get("major_brand") == "avif"


def _displayed(container: InputContainer, video: Any, turn: Orientation | None) -> tuple[int, int, Pixels]:
    """Width and height on a screen with square pixels, upright, and how to get there from the stored picture.

    A frame is decoded for it: PyAV does not tell the rotation of a stream. `turn`: what EXIF data say instead.
    """
    _rewind(container, video)
    try:
        frame = next(container.decode(video), None)
    except av.error.FFmpegError:
        frame = None  # no decoder in PyAV, or a damaged start: ffmpeg may still get through
    width, height = (frame.width, frame.height) if frame else (video.width, video.height)
    if turn is None:
        turn = upright.of_frame(frame) if frame else Orientation()
    aspect = video.sample_aspect_ratio or Fraction(1)
    if Fraction(1, 10) <= aspect <= 10:  # anything else is a broken header
        shape = float(width * aspect / height)
        width = max(1, round(width * aspect))
    else:
        shape = width / height
    curve = frame.color_trc if frame else video.codec_context.color_trc
    pixels = Pixels(
        aspect=shape,
        turn=turn,
        has_alpha=frame is not None
        and (_has_alpha(frame, raw=_codec(video) == "rawvideo") or _says_alpha(video.codec_context.extradata)),
        transfer=_transfer(curve),
    )
    return (height, width, pixels) if turn.swap else (width, height, pixels)


def _transfer(curve: int) -> Transfer | None:
    """The high dynamic range of this number in ITU-T H.273, if it is one."""
    return next((each for each in Transfer if each.value == curve), None)


def _says_alpha(header: bytes | None) -> bool:
    """Whether an H.265 header holds the message (SEI 165) that a layer of transparency follows; PyAV decodes none."""
    return header is not None and b"\x4e\x01\xa5" in header


def _rewind(container: InputContainer, stream: Any) -> None:
    """Back to the first packet, where the container can."""
    with suppress(av.error.FFmpegError):
        if container.format.name in _WRAPPING:  # by place: their times may begin again in the middle
            container.seek(0, stream=stream, unsupported_byte_offset=True)
        else:
            container.seek(stream.start_time or 0, stream=stream)


def _has_alpha(frame: Any, raw: bool = False) -> bool:
    """Whether the frame's format has transparency. `raw`: uncompressed 32-bit pictures often leave the channel at 0."""
    if frame.format.name == "pal8":
        return True
    return any(part.is_alpha for part in frame.format.components) and not (
        raw and not frame.to_ndarray(format="rgba")[..., 3].any()
    )


def _codec(stream: Any) -> str:
    return str(stream.codec_context.codec.canonical_name)


def _track(number: int, stream: Any) -> AudioTrack:
    language = _printable(stream.language)
    return AudioTrack(
        index=number,
        codec=_codec(stream),
        channels=stream.codec_context.channels,
        sample_rate=stream.codec_context.sample_rate,
        language=None if language == "und" else language,
        title=_printable(stream.metadata.get("title")),
    )


def _printable(text: str | None) -> str | None:
    """Text of a file's metadata without what could steer a terminal."""
    return printable(text or "").strip() or None


def _declared(container: InputContainer) -> float | None:
    """The length that the header tells, seconds; None if it tells none."""
    lengths = [container.duration / av.time_base] if container.duration else []
    if container.format.name == "avi":  # libavformat believes the index, and without one the size of the file
        if any(stream.frames >= _NO_COUNT for stream in container.streams):
            return None
        lengths += [float(stream.frames * stream.time_base) for stream in container.streams if stream.time_base]
    return max(lengths, default=None)


def _picture_stands_still(layout: StreamLayout, deadline: Deadline) -> bool:
    """Whether the first packets of a film, of which there are many, all have about the same time stamp."""
    if layout.video_index is None or layout.info.is_image:
        return False
    stamps: list[float] = []
    with opened(layout.info.path, deadline, layout.span) as container, suppress(av.error.FFmpegError):
        for packet in container.demux(container.streams[layout.video_index]):
            stamp = packet.dts if packet.pts is None else packet.pts
            if packet.size and stamp is not None:
                stamps.append(float(stamp * packet.time_base))
            if len(stamps) == _MANY_PACKETS:
                break
    return len(stamps) == _MANY_PACKETS and max(stamps) - min(stamps) < TICK_S * _MANY_PACKETS


def _stands_still(layout: StreamLayout, deadline: Deadline) -> bool:
    """Whether many packets of a stream have one and the same time stamp."""
    counts: Counter[int] = Counter()
    stamps: dict[int, set[int | None]] = {}
    with opened(layout.info.path, deadline, layout.span) as container, suppress(av.error.FFmpegError):
        for packet in container.demux():
            if packet.size:
                counts[packet.stream_index] += 1
                stamps.setdefault(packet.stream_index, set()).add(packet.dts if packet.pts is None else packet.pts)
    return any(counts[index] >= _MANY_PACKETS and len(stamps[index]) == 1 for index in counts)


def _measure(layout: StreamLayout, declared: float | None, deadline: Deadline) -> StreamLayout:
    """Fill in the length: what the header declares if the last packets bear it out, else what they say.

    Headers lack it (live WebM), guess it (MP3 without a table), or promise what was never written (a file cut off).
    """
    label, warnings = name(layout.info.path), layout.warnings
    ends = _last_ends(layout, declared, deadline) if layout.demuxer != "aac" else _counted_end(layout, deadline)
    if layout.times_s is not None and layout.video_index is not None and len(layout.times_s):
        ends[layout.video_index] = float(layout.times_s[-1]) + layout.frame_s
    seen = [ends[index] for index in (layout.video_index, *layout.audio_indices) if index in ends]
    if not seen:
        raise MediaError(f"{label}: holds no picture and no sound data; is the file cut off?")
    duration = max(max(seen) - layout.origin_s, 0.001)
    if declared is not None:
        slack = max(_CUT_OFF_S, 0.02 * declared)
        if abs(duration - declared) <= slack and layout.demuxer not in _ESTIMATED and layout.times_s is None:
            duration = declared
        elif max(ends.values()) < declared - slack and layout.demuxer not in _ESTIMATED:
            warnings += (f"{label}: ends after {duration:.1f} s, its header says {declared:.1f} s; it seems cut off",)
    if not warnings and joined.is_cut_off(layout.info.path, layout.demuxer, layout.span):
        warnings += (f"{label}: ends before its header says, after {duration:.1f} s; it seems cut off",)
    if not warnings and duration < 1 and layout.times_s is None and _stands_still(layout, deadline):
        warnings += (
            f"{label}: all its time stamps are the same, so that it seems to last {duration:.2f} s; {COUNT_ANEW}",
        )
    return replace(layout, info=replace(layout.info, duration_s=duration), warnings=warnings)


def _counted_end(layout: StreamLayout, deadline: Deadline) -> dict[int, float]:
    """{stream number: end, seconds} of bare AAC, from each frame's own header.

    Time stamps, which libavformat makes up, go on with the first sample rate where it changes.
    """
    total = 0.0
    with opened(layout.info.path, deadline, layout.span) as container, suppress(av.error.FFmpegError):
        for packet in container.demux(audio=0):
            header = bytes(packet)[:7]
            if len(header) == 7 and (rate := _ADTS_RATES.get(header[2] >> 2 & 15)):
                total += 1024 * ((header[6] & 3) + 1) / rate
    return {layout.audio_indices[0]: layout.origin_s + total} if total else {}


def _last_ends(layout: StreamLayout, declared: float | None, deadline: Deadline) -> dict[int, float]:
    """{stream number: end of its last packet, seconds}, looking ever further before the declared end for any at all."""
    back = 3.0
    while True:
        start = layout.origin_s + declared - back if declared is not None else layout.origin_s
        last: dict[int, tuple[float, float]] = {}  # (begin, end) of the packet that begins last
        with opened(layout.info.path, deadline, layout.span) as container, suppress(av.error.FFmpegError):
            # An error ends the look: the place cannot be reached, or the file breaks off in a packet.
            if start > layout.origin_s:
                container.seek(int(start * av.time_base))
            frame_s = {s.index: 1 / float(s.average_rate) for s in container.streams.video if s.average_rate}
            for packet in container.demux():
                stamp = packet.pts if packet.pts is not None else packet.dts
                if packet.size and stamp is not None and packet.time_base is not None:
                    index, length = packet.stream_index, float((packet.duration or 0) * packet.time_base)
                    begin = float(stamp * packet.time_base)
                    span = begin, begin + (length or frame_s.get(index, 0.0))
                    last[index] = max(span, last.get(index, span))
        ends = {index: end for index, (_, end) in last.items()}
        if layout.video_index in ends or set(layout.audio_indices) & set(ends) or start <= layout.origin_s:
            return ends
        back *= 8
