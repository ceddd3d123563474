"""OmniBench (m-a-p/OmniBench): a picture and a sound for each question, four options, the answer as text.

Either the repository's dataset/*.jsonl with mm_data/image and mm_data/audio beside it, or Parquet that holds the files
themselves; those are written to the cache once. Both files go to the model as one clip: the picture, shown as long as
the sound lasts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from epcli.errors import UsageError
from epcli.questions.files import Finder, Row, listed
from epcli.questions.record import Question, choice
from epcli.questions.sets.base import Format

_ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"RIFF": ".wav", b"ID3": ".mp3", b"fLaC": ".flac", b"OggS": ".ogg"}


def load(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    image, audio = (
        finder.find(f"mm_data/{kind}/{row[f'{kind}_path']}", f"{kind}/{row[f'{kind}_path']}", row[f"{kind}_path"])
        for kind in ("image", "audio")
    )
    yield _question(number, row, image, audio)


def load_embedded(row: Row, number: int, finder: Finder, annotation: Path) -> Iterator[Question]:
    folder = user_cache_path("epcli") / "evals" / "omnibench"
    yield _question(number, row, _unpacked(row["image"], folder), _unpacked(row["audio"], folder))


def _question(number: int, row: Row, image: Path, audio: Path) -> Question:
    return choice(
        str(row.get("index", number - 1)),
        image,
        row["question"],
        listed(row["options"]),
        str(row["answer"]),
        type=str(row["task type"]),
        cluster=f"{image.name} {audio.name}",
        sound=audio,
    )


def _unpacked(cell: Any, folder: Path) -> Path:
    """The file in a Parquet cell {"bytes", "path"}, written once under the hash of its content."""
    data = cell["bytes"]
    ending = Path(cell.get("path") or "").suffix
    ending = ending or next((e for start, e in _ENDINGS.items() if data.startswith(start)), ".bin")
    path = folder / f"{hashlib.sha256(data).hexdigest()[:32]}{ending}"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}.part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(path)
        except OSError as error:
            raise UsageError(
                f"{folder}: cannot be written: {error.strerror}; make room, or set XDG_CACHE_HOME"
            ) from None
    return path


_COMMON = frozenset({"question", "options", "answer", "task type"})
FILES = Format(
    "omnibench",
    "OmniBench",
    ("dataset/*.jsonl", "*.jsonl"),
    _COMMON | {"audio_path", "image_path"},
    load,
)
EMBEDDED = Format(
    "omnibench", "OmniBench", ("*.parquet", "data/*.parquet"), _COMMON | {"audio", "image"}, load_embedded
)
FORMATS = (FILES, EMBEDDED)
