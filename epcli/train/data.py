"""Training data of one's own: questions with answers about files on disk, in any format of `epcli.questions.sets`."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from epcli.errors import MediaError, UsageError
from epcli.questions.record import Question, by_files
from epcli.questions.sets import read_questions
from epcli.records import AudioFeatures, Features, VideoFeatures
from epcli.session.session import Session
from epcli.text import one_line
from epcli.train.examples import Example

REMEMBERED = 24  # clips whose features stay in memory


def load(path: Path, media: Path | None = None) -> list[list[Question]]:
    """Questions with answers, those about the same files together. `media`: the folder of their media, if elsewhere.

    Raises UsageError naming the first question that cannot be used.
    """
    found = read_questions(path, media=media)
    for number, each in enumerate(found.questions, 1):
        where = f"{path.name}: question {number}"
        if each.problem or not each.answer:
            raise UsageError(f"{where}: {each.problem or 'it has no answer to learn'}")
        if each.media is None:
            raise UsageError(f"{where}: it names no media")
        for file in each.files:
            if file is not None and not file.is_file():
                raise UsageError(f"{where}: no file {file}; name the folder of the media with --media")
    return by_files(found.questions)


class OwnClips:
    """Examples of one's own files. Features come through the cache: a file is decoded and encoded once.

    A file that cannot be read is left out from then on, with one line about it.
    """

    def __init__(
        self,
        clips: Sequence[Sequence[Question]],
        session: Session,
        make: Callable[[Features, Sequence[Question]], Sequence[Example]],
        questions: int = 4,
        say: Callable[[str], None] = lambda line: print(f"ep: {one_line(line)}", file=sys.stderr),
    ) -> None:
        """`clips`: the questions about each. `make`: a clip's features and questions -> examples. `questions`: at most
        so many of a clip at a time."""
        self.session, self.make, self.questions, self.say = session, make, questions, say
        self.clips = sorted(clips, key=lambda clip: str(clip[0].files))
        self.recent: OrderedDict[tuple[Path, Path | None], Features] = OrderedDict()

    def draw(self, rng: random.Random) -> Sequence[Example]:
        """Questions about one clip. Raises UsageError once none is left."""
        while self.clips:
            clip = rng.choice(self.clips)
            if examples := self._make(clip, rng.sample(clip, min(self.questions, len(clip)))):
                return examples
        raise UsageError("none of the media files can be read")

    def _make(self, clip: Sequence[Question], asked: Sequence[Question]) -> Sequence[Example]:
        """Examples about a clip; none if it cannot be read."""
        try:
            return self.make(self.features(clip[0]), asked)
        except MediaError as error:
            self.say(f"left out: {error}")
            self.clips.remove(clip)
            return []

    def features(self, question: Question) -> Features:
        """Of the question's files. Raises MediaError."""
        files = question.files
        if files not in self.recent:
            self.recent[files] = _for_training(question.look(self.session).features)
            if len(self.recent) > REMEMBERED:
                self.recent.popitem(last=False)
        self.recent.move_to_end(files)
        return self.recent[files]


class EachOnce(OwnClips):
    """The same, for measuring: clip after clip with all its questions, from the first again for each new generator."""

    rng: random.Random | None = None
    left: Sequence[Sequence[Question]] = ()

    def draw(self, rng: random.Random) -> Sequence[Example]:
        """Raises UsageError once no clip is left."""
        while self.clips:
            if rng is not self.rng or not self.left:
                self.rng, self.left = rng, tuple(self.clips)
            clip, *self.left = self.left
            if examples := self._make(clip, clip):
                return examples
        raise UsageError("none of the held-out media files can be read")


def _for_training(features: Features) -> Features:
    """The same without torch's inference flag, which autograd refuses."""

    def plain(value: Any) -> Any:
        return None if value is None else value.clone()

    video, audio = features.video, features.audio
    return Features(
        features.duration_s,
        VideoFeatures(plain(video.grid), plain(video.times_s), video.step_s, video.attention)
        if isinstance(video, VideoFeatures)
        else video,
        None
        if audio is None
        else AudioFeatures(plain(audio.tokens), audio.step_s, plain(audio.words), audio.attention),
    )
