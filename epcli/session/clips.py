"""A file on its way to the language model: opened (found in the cache or decoded), then encoded by the towers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from epcli.media.read import read, still_with_sound
from epcli.records import STAGES, Clip, ClipSummary, Features, Sampling
from epcli.session.cache import Slot


@dataclass(frozen=True, eq=False)
class OpenedClip:
    """A file that was found in the cache, or decoded. No model was needed for it."""

    media: Path
    range_s: tuple[float | None, float | None]  # as asked for; None: the file's own beginning or end
    sampling: Sampling
    clip: Clip | None  # decoded; None if it was found in the cache
    slot: Slot | None  # its place in the cache; None if the cache is off
    seconds: dict[str, float]  # of the stages up to media
    peak_rss: int  # bytes
    sound: Path | None = None  # of another file, to a still picture


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """A file decoded and encoded once, or found in the cache; ready for any number of questions."""

    clip: ClipSummary
    features: Features
    range_s: tuple[float | None, float | None]  # as asked for; None: the file's own beginning or end
    sampling: Sampling
    cache: str  # "hit", "miss" or "off"
    seconds: dict[str, float]  # of the stages up to audio
    peak_rss: int  # bytes
    sound: Path | None = None  # of another file, to a still picture

    def again(self) -> EncodedClip:
        """For further questions: the seconds of looking were spent on the first and are not counted twice."""
        return replace(self, seconds=dict.fromkeys(STAGES, 0.0), cache="off" if self.cache == "off" else "hit")

    def decode(self) -> Clip:
        """The pictures and the sound that the features were made of, decoded again. Raises MediaError."""
        if self.sound is not None:
            return pair(self.clip.info.path, self.sound, self.sampling)
        return read(self.clip.info.path, self.sampling, *self.range_s)


def pair(picture: Path, sound: Path, sampling: Sampling) -> Clip:
    """A still picture and the sound of another file as one clip. Raises MediaError."""
    seen = read(picture, replace(sampling, audio=False))
    return still_with_sound(seen, read(sound, replace(sampling, video=False)))
