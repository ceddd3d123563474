"""epcli: ask questions about your own videos, offline.

    import epcli

    report = epcli.ask("movie.mp4", "What plays?", keep=0.1)
    print(report.answer)

`ask` answers one question. A `Session` keeps the model loaded for many. docs/python.md shows both. The model libraries
are loaded when they are first needed, not by this import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from epcli.config import Profile
from epcli.errors import CapacityError, EpError, MediaError, UsageError, WeightsError
from epcli.records import (
    AnswerEvidence,
    CacheUse,
    ChoiceProbability,
    EvidenceShares,
    MeanKept,
    MediaUse,
    MemoryUse,
    Moment,
    ProfileChoice,
    Report,
    Requested,
    Speed,
    StageSeconds,
    TokenCount,
    TokenUse,
    Turn,
)

if TYPE_CHECKING:
    from epcli.session.clips import EncodedClip
    from epcli.session.session import AnswerStream, Session

__version__ = "0.1.0"

__all__ = [
    "AnswerEvidence",
    "AnswerStream",
    "CacheUse",
    "CapacityError",
    "ChoiceProbability",
    "EncodedClip",
    "EpError",
    "EvidenceShares",
    "MeanKept",
    "MediaError",
    "MediaUse",
    "MemoryUse",
    "Moment",
    "Profile",
    "ProfileChoice",
    "Report",
    "Requested",
    "Session",
    "Speed",
    "StageSeconds",
    "TokenCount",
    "TokenUse",
    "Turn",
    "UsageError",
    "WeightsError",
    "ask",
]

_HEAVY = {  # they import torch
    "AnswerStream": "epcli.session.session",
    "EncodedClip": "epcli.session.clips",
    "Session": "epcli.session.session",
}


def ask(
    media: str | PathLike[str],
    question: str,
    *,
    start: float | str | None = None,
    end: float | str | None = None,
    evidence: bool = False,
    schema: str | PathLike[str] | Mapping[str, Any] | None = None,
    choices: Sequence[str] | None = None,
    on_text: Callable[[str], None] | None = None,
    profile: Profile | str | PathLike[str] | None = None,
    **settings: Any,
) -> Report:
    """Answer one question about one video, sound or picture file.

    Args:
        media: the file.
        question: in plain words.
        start: where to begin, in seconds or as "1:30"; None is the beginning.
        end: where to stop; None is the end.
        evidence: also find the moments that carried the answer.
        schema: the answer is JSON that meets this JSON Schema: a file, or the schema itself.
        choices: the answer is the likeliest of these; the report has the probability of each.
        on_text: called with each piece of the answer as soon as it is there.
        profile: the settings to start from, as in `Session`.
        settings: fields of `Profile`: model="ep-smol", keep=0.1, ...

    Raises:
        UsageError: a wrong setting, an empty question, a range outside the file, a schema that cannot be used.
        MediaError: the file cannot be read.
        WeightsError: the model's weights are missing or damaged.
        CapacityError: memory or the model's context is too small.
        EpError: the JSON was not complete at `max_new_tokens`.
    """
    from epcli.session.form import read_form
    from epcli.session.session import Session
    from epcli.text import as_question

    question, form = as_question(question), read_form(schema, choices)
    with Session(profile, **settings) as session:
        looked = session.look(media, start, end)
        return session.run(looked, question, on_text, with_evidence=evidence, form=form).report


def __getattr__(name: str) -> Any:
    if name not in _HEAVY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HEAVY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HEAVY})
