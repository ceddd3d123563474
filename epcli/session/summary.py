"""A summary of a file: its chapters, each with a sentence about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from epcli.config import Profile
from epcli.errors import CapacityError, MediaError
from epcli.media.ffmpeg import name
from epcli.media.probe import probe
from epcli.models import catalog
from epcli.observe.chapters import Chapter, chapters
from epcli.observe.listen import Ears
from epcli.observe.look import observe
from epcli.observe.pieces import Progress
from epcli.records import MediaInfo, Observation
from epcli.session.session import Session

QUESTION = "What is this part of the video about? Answer in one short sentence."
BUILT_IN = "ep-smol"  # the family whose sentence is the list of what was observed: it cannot sum up


@dataclass(frozen=True)
class Part:
    """A chapter, and what is said about it."""

    chapter: Chapter
    sentence: str


@dataclass(frozen=True)
class Summary:
    """What a file is about."""

    info: MediaInfo
    range_s: tuple[float, float]
    model: str | None  # that wrote the sentences; None where they list what was observed
    parts: tuple[Part, ...]
    warnings: tuple[str, ...]


def summarise(
    media: Path,
    profile: Profile,
    ears: Ears | None = None,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    on_stage: Callable[[str], None] | None = None,
    on_progress: Progress | None = None,
) -> Summary:
    """Observe a file in bounded memory, cut it into chapters, and let the model say a sentence about each.

    `ears`: the parts that hear, with another speech model than the usual one. Raises MediaError, UsageError,
    WeightsError or CapacityError.
    """
    tell = on_stage or (lambda stage: None)
    info = probe(media)
    if info.is_image:
        raise MediaError(f"{name(media)}: is a still picture, which has no chapters; try `ep ask`")
    warnings: list[str] = []
    found = list(
        observe(
            media,
            picture=profile.video,
            sound=profile.audio,
            start_s=start_s,
            end_s=end_s,
            on_progress=on_progress,
            on_warning=warnings.append,
            ears=ears,
            audio_track=profile.audio_track,
            video_track=profile.video_track,
        )
    )
    range_s = (start_s or 0.0, info.duration_s if end_s is None else min(end_s, info.duration_s))
    made = chapters(found, range_s, _embedding(found))
    if catalog.find(profile.model).family.name == BUILT_IN:
        parts = tuple(Part(chapter, listed(chapter)) for chapter in made)
        return Summary(info, range_s, None, parts, tuple(warnings))
    parts = tuple(Part(chapter, said) for chapter, said in _asked(media, profile, made, tell, warnings))
    return Summary(info, range_s, profile.model, parts, tuple(warnings))


def _embedding(found: list[Observation]) -> Callable | None:
    """What tells texts of one meaning, if anything is said."""
    if not any(each.kind == "word" for each in found):
        return None
    from epcli.observe.minilm import MiniLM

    return MiniLM().embed


def _asked(
    media: Path, profile: Profile, made: list[Chapter], tell: Callable[[str], None], warnings: list[str]
) -> Iterator[tuple[Chapter, str]]:
    """The model's sentence about each chapter; the list of what was observed where it does not fit in memory."""
    with Session(profile) as session:
        for number, chapter in enumerate(made, 1):
            tell(f"chapter {number} of {len(made)}")
            try:
                looked = session.look(media, chapter.start_s, chapter.end_s)
                yield chapter, " ".join(session.ask(looked, QUESTION).answer.split())
            except CapacityError as error:
                warnings.append(str(error))
                yield chapter, listed(chapter)


def listed(chapter: Chapter) -> str:
    """What was observed in a chapter."""
    told = [f"“{chapter.said}”"] if chapter.said else []
    for label, names in (("Heard", chapter.heard), ("Seen", chapter.seen)):
        if names:
            told.append(f"{label}: {', '.join(names)}.")
    if chapter.read:
        told.append(f"On screen: {', '.join(f'“{text}”' for text in chapter.read)}.")
    return " ".join(told) or "Nothing was recognised."
