"""What the towers made of a file, on disk, so that the next question about it needs neither ffmpeg nor towers.

An entry is found by the SHA-256 of the file's content together with everything else that decides its features: the
towers' weights and code, the sampling and the range. So an edited file, another model or another setting never hits,
and a copy of the file under another name does. A huge film is not hashed before it is known to be worth it: entries
carry a quick digest (content.py) in front of their names, a file whose digest no entry has is a miss at once, and its
SHA-256 is taken while it is decoded.

    ${XDG_CACHE_HOME:-~/.cache}/epcli/features/QUICK-KEY.safetensors

Several processes may share the folder: an entry is written under a temporary name and moved. It carries a checksum;
whatever is damaged, or is not an entry of this format, counts as absent and is removed. Its modification time is when
it was last used, and when the folder grows over its limit, those used longest ago go.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epcli import __version__, content
from epcli.config import Profile, cache_home
from epcli.records import (
    AudioFeatures,
    AudioTrack,
    ClipSummary,
    Features,
    MediaInfo,
    Sampling,
    SeenFeatures,
    Sight,
    VideoFeatures,
)

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).parents[1]  # of the package
FORMAT = 3  # of an entry; raise it when `_tensors` or `_about` change
NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{40}\.safetensors")
LEFTOVER_S = 3600.0  # a temporary file older than this has lost its process
LOCK_S = 10.0  # making room waits no longer for another process that does the same
HEADER_BYTES = 10_000_000  # no entry's header is longer


@dataclass(frozen=True)
class FeatureKey:
    """All that decides, besides a file's content, what its features are."""

    towers: dict[str, Any]  # weights and number format, as `registry.towers` tells
    sampling: Sampling
    range_s: tuple[float | None, float | None]  # as asked for; None: the file's own beginning or end
    model: str = ""  # for people; the same towers may serve several models

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; equal keys give equal dicts."""
        return {
            "format": FORMAT,
            "code": code(),
            "towers": self.towers,
            "sampling": asdict(self.sampling),
            "range_s": list(self.range_s),
        }


@dataclass(frozen=True)
class Entry:
    """One stored file, as its header tells."""

    file: Path
    media: str  # path of the file it was made from
    model: str
    range_s: tuple[float, float]
    frames: int
    heard: bool
    size_bytes: int
    made: float  # seconds since the epoch
    used: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "file": str(self.file), "range_s": list(self.range_s)}


class FeatureCache:
    """A folder of entries, at most `limit_bytes` of them."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes

    @classmethod
    def of(cls, profile: Profile) -> FeatureCache | None:
        """The cache that the settings ask for; None if they switch it off."""
        if not profile.cache:
            return None
        return cls(
            Path(os.path.expanduser(profile.cache_dir)) if profile.cache_dir else default_folder(),
            int(profile.cache_gb * 1e9),
        )

    def open(self, media: Path, key: FeatureKey) -> Slot:
        """Look for a file. Raises OSError if the file cannot be read."""
        return Slot(self, media, key)

    def may_hold(self, media: Path) -> bool:
        """Whether there is an entry that may be of a file, of whatever range and model. Raises OSError."""
        quick = content.quick(media)
        return any(file.name.startswith(quick) for file in self._files())

    def holds(self, media: Path, key: FeatureKey) -> bool:
        """Whether there is an entry for a file, without reading it, and so without torch. Raises OSError."""
        if not self.may_hold(media):
            return False
        quick = content.quick(media)
        return (self.folder / _name(quick, {"content": content.sha256(media), **key.to_dict()})).exists()

    def entries(self) -> list[Entry]:
        """What is stored, the latest used first. Files that are no entries are left out."""
        found = [entry for file in self._files() if (entry := _entry(file))]
        return sorted(found, key=lambda entry: -entry.used)

    def prune(
        self,
        limit_bytes: int | None = None,
        unused_s: float | None = None,
        chosen: Callable[[Entry], bool] = lambda entry: False,
        dry_run: bool = False,
    ) -> list[Entry]:
        """Remove what was not used for `unused_s` seconds, what is `chosen`, and the least used over `limit_bytes`.

        Damaged entries and what killed processes left go too. Returns the entries that were removed, or would be.
        """
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        with self._lock():
            kept, gone = 0, []
            now = time.time()
            for entry in self.entries():
                old = unused_s is not None and now - entry.used > unused_s
                if old or chosen(entry) or kept + entry.size_bytes > limit:
                    gone.append(entry)
                else:
                    kept += entry.size_bytes
            if not dry_run:
                for entry in gone:
                    _remove(entry.file)
                self._sweep()
        return gone

    def make_room(self) -> None:
        """Remove the least used entries over the limit; by file sizes and times alone, so it may be called often."""
        if sum(size for _, size, _ in self._sizes()) <= self.limit_bytes:
            return
        with self._lock():
            kept = 0
            for _, size, file in sorted(self._sizes(), reverse=True):
                kept += size
                if kept > self.limit_bytes:
                    _remove(file)
                    kept -= size
            self._sweep()

    def _files(self) -> list[Path]:
        with suppress(OSError):
            return [Path(item.path) for item in os.scandir(self.folder) if NAME.fullmatch(item.name)]
        return []

    def _sizes(self) -> list[tuple[float, int, Path]]:
        """When it was last used, and bytes, of each entry."""
        found = []
        for file in self._files():
            with suppress(OSError):  # gone by now
                status = file.stat()
                found.append((status.st_mtime, status.st_size, file))
        return found

    def _sweep(self) -> None:
        """Remove what is no entry: temporary files without a process, and damaged headers."""
        for file in self._files():
            if _entry(file) is None:
                _remove(file)
        with suppress(OSError):
            for item in os.scandir(self.folder):
                if item.name.endswith(".part") and time.time() - item.stat().st_mtime > LEFTOVER_S:
                    _remove(Path(item.path))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process makes room at a time; without the lock it is tried all the same, removing is harmless."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / ".lock")
        with suppress(OSError, Timeout):
            if self.folder.is_dir():
                lock.acquire(timeout=LOCK_S)
        try:
            yield
        finally:
            lock.release()


class Slot:
    """One file's place in the cache, from looking for it to storing it."""

    clip: ClipSummary | None = None  # of a hit
    features: Features | None = None

    def __init__(self, cache: FeatureCache, media: Path, key: FeatureKey) -> None:
        self._cache, self._media, self._key = cache, media, key
        self._stamp = content.stamp(media)
        self._quick = content.quick(media)
        self._digest: str | None = None
        self._hashing: threading.Thread | None = None
        if any(file.name.startswith(self._quick) for file in cache._files()):
            self._hash()
            self._find()
        else:
            # A daemon: when the question ends early, nobody waits for the rest of a film to be hashed.
            self._hashing = threading.Thread(target=self._hash, daemon=True)
            self._hashing.start()

    def store(self, clip: ClipSummary, features: Features) -> str | None:
        """Store what was made of the file; returns why that failed, if the user should know."""
        if self._hashing is not None:
            self._hashing.join()
        try:
            if self._digest is None or content.stamp(self._media) != self._stamp:
                return None  # it was changed, or has gone, while it was looked at
            return self._write(clip, features)
        except OSError as error:
            return (
                f"features cannot be stored in {self._cache.folder}: {error.strerror or error}; --no-cache goes without"
            )

    def _hash(self) -> None:
        with suppress(OSError):
            self._digest = content.sha256(self._media)

    def _find(self) -> None:
        if self._digest is None:
            return
        found = _read(self._file(), self._about())
        if found is not None and content.stamp(self._media) == self._stamp:
            clip, self.features = found
            self.clip = _renamed(clip, self._media)
            with suppress(OSError):
                os.utime(self._file())

    def _about(self) -> dict[str, Any]:
        return {"content": self._digest, **self._key.to_dict()}

    def _file(self) -> Path:
        return self._cache.folder / _name(self._quick, self._about())

    def _write(self, clip: ClipSummary, features: Features) -> str | None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors, facts = _tensors(features), _facts(clip, features)
        need = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if need > self._cache.limit_bytes:
            return None
        about = {
            **self._about(),
            **facts,
            "media": os.path.abspath(self._media),
            "model": self._key.model,
            "made": time.time(),
        }
        header = json.dumps({**about, "sum": _checksum(about, tensors)}, sort_keys=True)
        self._cache.folder.mkdir(parents=True, exist_ok=True)
        file = self._file()
        temporary = file.with_name(f"{file.stem}.{os.getpid()}.{time.monotonic_ns()}.part")
        try:
            save_file(tensors, temporary, {"format": "pt", "epcli": header})
            os.replace(temporary, file)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error
        finally:
            temporary.unlink(missing_ok=True)
        self._cache.make_room()
        return None


def _name(quick: str, about: dict[str, Any]) -> str:
    """An entry's file name; NAME matches it."""
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:40]
    return f"{quick}-{key}.safetensors"


def default_folder() -> Path:
    """Where features lie unless the settings name a folder; it may not exist yet."""
    return cache_home() / "features"


def code_files() -> list[Path]:
    """What decides, besides weights and settings, which features a file gives."""
    return [file for room in ("media", "observe", "models") for file in sorted((ROOT / room).rglob("*.py"))]


@once
def code() -> str:
    """Digest of the code that turns files into features: another version of it may make others."""
    digest = hashlib.sha256(__version__.encode())
    for file in code_files():
        digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


# --- An entry's contents --------------------------------------------------------------------------


def _tensors(features: Features) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    if features.video is not None:
        found["video.times_s"] = features.video.times_s
    if isinstance(features.video, VideoFeatures):
        found["video.grid"] = features.video.grid
        if features.video.attention is not None:
            found["video.attention"] = features.video.attention
    if features.audio is not None:
        found["audio.tokens"] = features.audio.tokens
        if features.audio.words is not None:
            found["audio.words"] = features.audio.words
        if features.audio.attention is not None:
            found["audio.attention"] = features.audio.attention
    return {name: _plain(tensor) for name, tensor in found.items()}


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, one number after another. A single number with a stride counts as contiguous, and yet is not."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.stride(-1) == 1 else tensor.clone(memory_format=torch.contiguous_format)


def _facts(clip: ClipSummary, features: Features) -> dict[str, Any]:
    summary = asdict(clip)
    summary["info"]["path"] = os.fspath(clip.info.path)
    return {
        "clip": json.loads(json.dumps(summary)),  # tuples are lists from here on, as after reading
        "duration_s": features.duration_s,
        "video_step_s": features.video.step_s if features.video is not None else None,
        "seen": _seen(features.video.frames) if isinstance(features.video, SeenFeatures) else None,
        "audio_step_s": features.audio.step_s if features.audio is not None else None,
    }


def _seen(frames: tuple[tuple[Sight, ...], ...]) -> list[list[dict[str, Any]]]:
    made: list[list[dict[str, Any]]] = json.loads(json.dumps([[asdict(sight) for sight in frame] for frame in frames]))
    return made


def _sight(facts: dict[str, Any]) -> Sight:
    box = facts["box"]
    return Sight(**facts | {"box": None if box is None else tuple(box)})


def _clip(facts: dict[str, Any]) -> ClipSummary:
    info = dict(facts["info"])
    info["path"] = Path(info["path"])
    info["audio_tracks"] = tuple(AudioTrack(**track) for track in info["audio_tracks"])
    start, end = facts["range_s"]
    return ClipSummary(
        MediaInfo(**info),
        (start, end),
        tuple(facts["frame_times_s"]),
        bool(facts["heard"]),
        tuple(facts["warnings"]),
        bool(facts.get("silent", False)),
    )


def _features(about: dict[str, Any], tensors: dict[str, Tensor]) -> Features:
    video: VideoFeatures | SeenFeatures | None = None
    audio = None
    if about["seen"] is not None:
        frames = tuple(tuple(_sight(sight) for sight in frame) for frame in about["seen"])
        video = SeenFeatures(frames, tensors["video.times_s"], about["video_step_s"])
    elif "video.grid" in tensors:
        video = VideoFeatures(
            tensors["video.grid"], tensors["video.times_s"], about["video_step_s"], tensors.get("video.attention")
        )
    if "audio.tokens" in tensors:
        audio = AudioFeatures(
            tensors["audio.tokens"], about["audio_step_s"], tensors.get("audio.words"), tensors.get("audio.attention")
        )
    return Features(about["duration_s"], video, audio)


def _checksum(about: dict[str, Any], tensors: dict[str, Tensor]) -> int:
    """CRC-32 of everything: facts, names, formats, shapes and numbers."""
    import torch

    value = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, value)
    return value


def _read(file: Path, expected: dict[str, Any]) -> tuple[ClipSummary, Features] | None:
    """An entry that is whole and was made from `expected`; anything else is removed."""
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as opened:
            about = json.loads(opened.metadata()["epcli"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        said = about.pop("sum")
        if said == _checksum(about, tensors) and all(about[key] == value for key, value in expected.items()):
            return _clip(about["clip"]), _features(about, tensors)
    except RuntimeError:  # how torch says that another process has removed it since it was seen
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        pass
    _remove(file)
    return None


def _entry(file: Path) -> Entry | None:
    """What an entry's header says (JSON behind its length), read without a model library; None if it is none."""
    try:
        status = file.stat()
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            about = json.loads(json.loads(opened.read(min(length, HEADER_BYTES)))["__metadata__"]["epcli"])
        clip = _clip(about["clip"])
        return Entry(
            file=file,
            media=str(about["media"]),
            model=str(about["model"]),
            range_s=clip.range_s,
            frames=len(clip.frame_times_s),
            heard=clip.heard,
            size_bytes=status.st_size,
            made=float(about["made"]),
            used=status.st_mtime,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _renamed(clip: ClipSummary, media: Path) -> ClipSummary:
    """The clip under the name it is asked about now, in its warnings too."""
    from epcli.media.ffmpeg import name

    old, new = f"{name(clip.info.path)}: ", f"{name(media)}: "
    warnings = tuple(new + text[len(old) :] if text.startswith(old) else text for text in clip.warnings)
    return replace(clip, info=replace(clip.info, path=media), warnings=warnings)


def _remove(file: Path) -> None:
    with suppress(OSError):  # another process was first, or (Windows) is reading it
        file.unlink()
