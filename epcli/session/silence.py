"""Answers about a clip in which nothing can be heard. What a model says that it hears there is not told: it is made up.

Whether sound is silent is known by its level (`media.read.SILENCE_PEAK`); here only answers are looked at, never
questions. Where a file has no sound at all, people in the picture may still be seen to talk, sing or play: only what
can be known by ear alone is taken out.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import replace

from epcli.records import ClipSummary, Features
from epcli.session import generate
from epcli.session.generate import Generated

SILENT = "The sound is silent."
NO_SOUND = "There is no sound."
NOT_HEARD = "The sound was not listened to."
_CLAUSE = re.compile(r'(?:"[^"]*"|[^.;!?"])+[.;!?]*|"')  # a quotation stays in one piece
_HEARD = re.compile(
    r"\b(hear|hears|heard|hearing|voices?|speech|sings?|singing|sung|music|sounds? like|noises?|melody)\b"
    r"|\b(beeps?|beeping|whistling|buzzes|buzzing|humming|hisses|hissing|chirps|chirping|barks|barking|meows|meowing"
    r"|ringing|thunder|applause|laughter|audible|loud|loudly)\b"  # not what is also seen: rings, sirens, footsteps
    r"|\b(man|woman|person|people|someone|somebody|he|she|they|girl|boy|child|speaker|narrator|announcer)\b"
    r".*\b(says?|said|speaks?|spoke|spoken|speaking|talks?|talking|shouts?|whispers?)\b",
    re.IGNORECASE | re.DOTALL,
)
_BY_EAR = re.compile(
    r"\b(hear|hears|heard|hearing|voices?|sounds? like|audible|melody|beeps?|beeping)\b"
    r"|\bmusic (is )?(plays|playing)\b|\b(is|are) (some |the )?(music|noise|speech)\b"
    r"|^\W*yes\b.*\b(speaks?|speaking|talks?|talking|sings?|singing|music|speech|sounds?|noises?)\b"
    r"|\b(man|woman|person|people|someone|somebody|he|she|they|girl|boy|child|speaker|narrator|announcer)\b"
    r".*\b(says?|said|shouts?|whispers?)\b",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE = re.compile(r'\s*(?:"[^"]*"|[^".!?])*[.!?]+(?=\s)')  # complete, and more follows
_DENIED = re.compile(
    r"\b(no(?!,)|nothing|nobody|none|not|never|zero|silent|silence|without|inaudible)\b|n't\b", re.IGNORECASE
)
_QUOTED = re.compile(r'"[^"]*"')
_CHOICE = re.compile(r"\(?\w\)?[.:)]?")  # of an answer among several, "B"


def audible(clip: ClipSummary, features: Features) -> Features:
    """The features without those of silent sound, where there are pictures besides."""
    return replace(features, audio=None) if clip.silent and features.video is not None else features


def checked(saying: Generator[str, None, Generated], clip: ClipSummary) -> Generator[str, None, Generated]:
    """An answer's pieces, and what comes with the last.

    If the sound is silent, the whole answer is one piece, without what it claims to hear. If there is no sound, a piece
    is a sentence.
    """
    if not clip.heard:
        said = NOT_HEARD if clip.info.has_audio else NO_SOUND
        return (yield from _by_sentence(saying, said))
    if not clip.silent:
        return (yield from saying)
    made = generate.finish(saying)
    answer = replace(made.answer, text=_corrected(made.answer.text, bool(clip.frame_times_s)))
    yield answer.text
    return made._replace(answer=answer)


def _by_sentence(saying: Generator[str, None, Generated], instead: str) -> Generator[str, None, Generated]:
    """The sentences that claim nothing that only an ear could know, and `instead` at the end if one did."""
    told, waiting, left_out = "", "", False
    while True:
        try:
            waiting, made = waiting + next(saying), None
        except StopIteration as end:
            made = end.value
        while sentence := (_SENTENCE.match(waiting) if made is None else re.match(r"(?s).+", waiting)):
            waiting = waiting[sentence.end() :]
            if _DENIED.search(said := _QUOTED.sub('""', sentence[0])) or not _BY_EAR.search(said):
                piece = sentence[0].lstrip() if left_out and not told else sentence[0]
                told += piece
                yield piece
            else:
                left_out = True
        if made is not None:
            break
    if not left_out:
        return made
    last = f"{' ' * bool(told)}{instead}"
    yield last
    return made._replace(answer=replace(made.answer, text=told + last))


def _corrected(text: str, has_pictures: bool) -> str:
    """The clauses that claim nothing about sound, or deny that there is any, and SILENT for the others.

    Without pictures there is nothing else to tell, so that only a denial or the letter of a choice stays.
    """
    clauses = [clause.strip() for clause in _CLAUSE.findall(text.replace(", but ", "; "))]
    kept = [clause for clause in clauses if _is_true(_QUOTED.sub('""', clause), has_pictures)]
    if len(kept) == len(clauses) or _CHOICE.fullmatch(text.strip()):
        return text
    return " ".join([*(clause.rstrip(";,") + ("" if clause[-1] in ".!?" else ".") for clause in kept), SILENT])


def _is_true(clause: str, has_pictures: bool) -> bool:
    return bool(_DENIED.search(clause)) or (has_pictures and not _HEARD.search(clause))
