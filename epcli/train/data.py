"""Training data of one's own: questions with answers about files on disk, in three layouts, told apart by their keys.

    ours          {"media", "question", "answer", "type"?, "evidence"?: [["video" or "audio", from_s, to_s], ...]}
    AVQA          {"video_name", "question_text", "multi_choice": [...], "answer": index, "question_type"?}
    LLaVA-Video   {"video" (or "image"), "conversations": [{"from": "human" or "gpt", "value"}, ...]}

A .jsonl file of such objects, or a .json file with a list of them.
"""

from __future__ import annotations

import random
import re
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epcli.errors import MediaError, UsageError
from epcli.questions.sets.files import Finder, Row, read_rows
from epcli.records import AudioFeatures, Features, Modality, VideoFeatures
from epcli.session.session import Session
from epcli.train.items import Evidence, Item

PLACEHOLDER = re.compile(r"\s*<(?:image|video|audio)>\s*")
SENSES = {"video": Modality.VIDEO, "audio": Modality.AUDIO}
REMEMBERED = 24  # clips whose features stay in memory


@dataclass(frozen=True)
class Asked:
    """A question about a file, with its answer."""

    question: str
    answer: str
    type: str = "own"
    evidence: tuple[Evidence, ...] | None = None  # None: not known


def load(path: Path, media: Path | None = None) -> dict[Path, list[Asked]]:
    """Questions by media file. Media are looked for in `media` (None: the folder of `path`), at the place that a row
    names or anywhere below by name. Raises UsageError naming the first row that cannot be used.
    """
    finder = Finder([media or path.parent])
    found: dict[Path, list[Asked]] = defaultdict(list)
    entry = "line" if path.suffix == ".jsonl" else "entry"
    for number, row in enumerate(read_rows(path), 1):
        try:
            file, asked = _read(row, finder)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            what = f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"{path.name}: {entry} {number}: {what}; docs/training.md shows the layouts that are read"
            ) from None
        if not file.is_file():
            raise UsageError(
                f"{path.name}: {entry} {number}: no file {file.name} in {finder.roots[0]}; name its folder with --media"
            )
        found[file] += asked
    if not found:
        raise UsageError(f"{path.name}: no questions in it")
    return found


def _read(row: Row, finder: Finder) -> tuple[Path, list[Asked]]:
    """A row of any layout. Raises KeyError, ValueError, TypeError or IndexError."""
    if "conversations" in row:
        return finder.find(_text(row, "video" if "video" in row else "image")), list(_turns(row))
    if "question_text" in row:
        options = [str(option) for option in row["multi_choice"]]
        right = row["answer"]
        if not isinstance(right, int) or not 0 <= right < len(options):
            raise ValueError(f"the answer {right!r} is not the place of one of {len(options)} options")
        listed = [f"{letter}. {option}" for letter, option in zip("ABCDEFGHIJ", options, strict=False)]
        name = _text(row, "video_name")
        place = name if Path(name).suffix in (".mp4", ".mkv", ".webm") else f"{name}.*"
        kind = str(row.get("question_type") or "avqa")
        return finder.find(place), [Asked("\n".join([_text(row, "question_text"), *listed]), listed[right], kind)]
    evidence = None
    if row.get("evidence") is not None:
        evidence = tuple(Evidence(SENSES[str(kind)], float(start), float(end)) for kind, start, end in row["evidence"])
    asked = Asked(_text(row, "question"), _text(row, "answer"), str(row.get("type") or "own"), evidence)
    return finder.find(_text(row, "media")), [asked]


def _turns(row: Row) -> Iterator[Asked]:
    """Each question of a conversation by itself: in this set they do not refer to each other."""
    turns = row["conversations"]
    roles = [turn["from"] for turn in turns]
    if not turns or roles != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError(f"its conversation goes {', '.join(map(str, roles)) or 'nowhere'}, not human, gpt, ...")
    kind = str(row.get("data_source") or "llava-video")
    for asked, said in zip(turns[::2], turns[1::2], strict=True):
        question = PLACEHOLDER.sub("", _text(asked, "value"))
        yield Asked(question, _text(said, "value"), kind)


def _text(row: Row, key: str) -> str:
    if not isinstance(row[key], str) or not row[key].strip():
        raise ValueError(f"{key} is not a text")
    return row[key].strip()


class OwnClips:
    """Items of one's own files. Features come through the cache: a file is decoded and encoded once.

    A file that cannot be read is left out from then on, with one line about it.
    """

    def __init__(
        self,
        rows: dict[Path, list[Asked]],
        session: Session,
        make: Callable[[Features, Sequence[Asked]], Sequence[Item]],
        questions: int = 4,
        say: Callable[[str], None] = lambda line: print(f"ep: {line}", file=sys.stderr),
    ) -> None:
        """`make`: a clip's features and questions -> items. `questions`: at most so many of a clip at a time."""
        self.rows, self.session, self.make, self.questions, self.say = rows, session, make, questions, say
        self.files = sorted(rows)
        self.lately: OrderedDict[Path, Features] = OrderedDict()

    def draw(self, rng: random.Random) -> Sequence[Item]:
        """Questions about one file. Raises UsageError once no file is left."""
        while self.files:
            media = rng.choice(self.files)
            rows = self.rows[media]
            chosen = rng.sample(rows, min(self.questions, len(rows)))
            if items := self._make(media, chosen):
                return items
        raise UsageError("none of the media files can be read")

    def _make(self, media: Path, asked: Sequence[Asked]) -> Sequence[Item]:
        """Items about a file; none if it cannot be read."""
        try:
            return self.make(self.features(media), asked)
        except MediaError as error:
            self.say(f"left out: {error}")
            self.files.remove(media)
            return []

    def features(self, media: Path) -> Features:
        """Raises MediaError."""
        if media not in self.lately:
            self.lately[media] = _for_training(self.session.look(media).features)
            if len(self.lately) > REMEMBERED:
                self.lately.popitem(last=False)
        self.lately.move_to_end(media)
        return self.lately[media]


class EachOnce(OwnClips):
    """The same, for measuring: file after file with all its questions, from the first again for each new generator."""

    rng: random.Random | None = None
    left: Sequence[Path] = ()

    def draw(self, rng: random.Random) -> Sequence[Item]:
        """Raises UsageError once no file is left."""
        while self.files:
            if rng is not self.rng or not self.left:
                self.rng, self.left = rng, tuple(self.files)
            media, *self.left = self.left
            if items := self._make(media, self.rows[media]):
                return items
        raise UsageError("none of the held-out media files can be read")


def _for_training(features: Features) -> Features:
    """The same without torch's inference flag, which autograd refuses."""

    def plain(value: Any) -> Any:
        return None if value is None else value.clone()

    video, audio = features.video, features.audio
    return Features(
        features.duration_s,
        None if video is None else VideoFeatures(plain(video.grid), plain(video.times_s), video.step_s),
        None if audio is None else AudioFeatures(plain(audio.tokens), audio.step_s, plain(audio.words)),
    )
