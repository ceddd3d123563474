"""One question, whoever asks it: `ep batch`, `ep eval` or `ep train`; and the rules that judge answers to it.

Pattern   an open question: a regular expression that a true answer matches
Choice    a multiple-choice question: the option that is meant
Exact     an open question with a short answer: equal after normalisation
"""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from epcli.records import Modality
from epcli.text import well_formed

if TYPE_CHECKING:
    from epcli.session.clips import EncodedClip
    from epcli.session.session import Session

LETTERS = string.ascii_uppercase
CHOICE_PROMPT = "Answer with the option's letter from the given choices directly."
EXACT_PROMPT = "Answer with one or two words."


class Rule(Protocol):
    """How the answers to one question are judged."""

    @property
    def constants(self) -> tuple[str, ...]:
        """What somebody would answer who knows the question's kind but not the clip; for the majority baseline."""
        ...

    def judge(self, answer: str) -> bool:
        """Whether an answer is true."""
        ...

    def reading(self, answer: str) -> dict[str, Any]:
        """What was read in the answer, for its line in the results."""
        ...


@dataclass(frozen=True)
class Pattern:
    """A true answer matches `accept` and does not match `reject`; case is ignored, and a dot matches a line's end."""

    accept: str
    reject: str = ""
    answer: str = ""  # a true answer in words; may be unknown

    @property
    def constants(self) -> tuple[str, ...]:
        return (self.answer,) if self.answer else ()

    def judge(self, answer: str) -> bool:
        flags = re.IGNORECASE | re.DOTALL
        return bool(re.search(self.accept, answer, flags)) and not (
            self.reject and re.search(self.reject, answer, flags)
        )

    def reading(self, answer: str) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Choice:
    """The right one of several options."""

    options: tuple[str, ...]
    gold: int

    @property
    def constants(self) -> tuple[str, ...]:
        return tuple(LETTERS[: len(self.options)])

    def judge(self, answer: str) -> bool:
        return read_choice(answer, self.options) == self.gold

    def reading(self, answer: str) -> dict[str, Any]:
        found = read_choice(answer, self.options)
        return {"choice": None if found is None else LETTERS[found], "gold": LETTERS[self.gold]}


@dataclass(frozen=True)
class Exact:
    """A true answer is, normalised, the normalised `answer`."""

    answer: str

    @property
    def constants(self) -> tuple[str, ...]:
        return (self.answer,)

    def judge(self, answer: str) -> bool:
        return normalised(answer) == normalised(self.answer)

    def reading(self, answer: str) -> dict[str, Any]:
        return {"gold": self.answer}


@dataclass(frozen=True)
class Evidence:
    """Where an answer can be read off: one sense, one stretch of time, for pictures one part of the frame."""

    modality: Modality  # VIDEO or AUDIO
    start_s: float  # seconds from the start of the clip
    end_s: float
    box: tuple[float, float, float, float] | None = None  # top, left, bottom, right as shares of the frame


@dataclass(frozen=True)
class Question:
    """One question about one file, or about whatever files it is put to, with what is known of its answer."""

    text: str  # as it is put to the model, options and instruction included
    media: Path | None = None  # None: about any file
    key: str = ""  # the user's own name for it; unique in a set
    sound: Path | None = None  # of a set whose pictures and sounds are separate files
    answer: str = ""  # a true answer, in the words that the model should say; empty: not known
    rule: Rule | None = None  # how answers are judged; None: they cannot be
    type: str = "all"  # for tables by kind of question
    cluster: str = ""  # what it shares with others, usually the video: intervals are clustered by it
    needs: str = ""  # "sound", "picture" or "both", where the set says it
    evidence: tuple[Evidence, ...] | None = None  # None: not known
    problem: str = ""  # why it cannot be asked; it then counts as failed

    def __post_init__(self) -> None:
        for name in ("text", "key", "answer", "type", "cluster"):  # JSON may hold half a character
            object.__setattr__(self, name, well_formed(getattr(self, name)))

    @property
    def files(self) -> tuple[Path, Path | None]:
        """What must be looked at for it. AssertionError if it names no file."""
        assert self.media is not None
        return self.media, self.sound

    def look(self, session: Session) -> EncodedClip:
        """Its files, decoded and encoded. Raises as `Session.look`."""
        media, sound = self.files
        return session.look_pair(media, sound) if sound else session.look(media)

    def judge(self, answer: str) -> bool:
        """Whether an answer is true. AssertionError if it has no rule."""
        assert self.rule is not None
        return self.rule.judge(answer)

    def reading(self, answer: str) -> dict[str, Any]:
        """What was read in the answer, for its line in the results."""
        return {} if self.rule is None else self.rule.reading(answer)


def by_files(questions: Iterable[Question]) -> list[list[Question]]:
    """Questions about the same files together, in the order of the first of each."""
    groups: dict[tuple[Path, Path | None], list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.files].append(question)
    return list(groups.values())


_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces, whole numbers up to ten as words."""
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    words = [_NUMBERS[int(w)] if w.isascii() and w.isdigit() and int(w) <= 10 else w for w in words]
    return " ".join(w for w in words if w not in ("a", "an", "the"))


def bare(option: str, index: int) -> str:
    """An option without the letter that some sets put before it: "B. a dog" or "(B) a dog" -> "a dog"."""
    return re.sub(rf"^\s*(\({LETTERS[index]}\)|{LETTERS[index]}\s*[.:)])\s*", "", option).strip()


def choice_prompt(question: str, options: Sequence[str]) -> str:
    """The prompt of every multiple-choice set: the question, a line an option, and the instruction."""
    lines = [f"{LETTERS[i]}. {option}" for i, option in enumerate(options)]
    return "\n".join([question.strip(), *lines, CHOICE_PROMPT])


def read_choice(answer: str, options: Sequence[str]) -> int | None:
    """Which option an answer names, by the first of these rules that finds one; None if none does.

    1. a letter in brackets, "(B)": the last one
    2. the answer is one option's text
    3. a letter that stands alone, "B", "B ", "B.", "B:", "B)": the last one. "A" before a word in small letters is
       taken for the article, unless that word is one of is, because, since, as, and, or
    4. exactly one option's text stands in the answer
    """
    letters = LETTERS[: len(options)]
    if found := re.findall(rf"\(\s*([{letters}])\s*\)", answer):
        return letters.index(found[-1])
    texts = [normalised(option) for option in options]
    said = normalised(answer)
    if said and texts.count(said) == 1:
        return texts.index(said)
    word = answer.strip().rstrip(".:)").strip()
    if len(word) == 1 and word.upper() in letters:  # nothing but a letter, in small type too
        return letters.index(word.upper())
    article = r"(?!(?<=A)\s+(?!(?:is|because|since|as|and|or)\b)[a-z])"
    if found := re.findall(rf"(?<![\w'’-])([{letters}])(?![\w'’-]){article}", answer):
        return letters.index(found[-1])
    inside = [i for i, text in enumerate(texts) if text and re.search(rf"\b{re.escape(text)}\b", said)]
    return inside[0] if len(inside) == 1 else None


def choice(
    key: str,
    media: Path,
    question: str,
    options: Sequence[str],
    gold: str,
    *,
    type: str,
    cluster: str,
    sound: Path | None = None,
) -> Question:
    """A multiple-choice question; `gold` is a letter or the text of the right option."""
    texts = tuple(bare(str(option), i) for i, option in enumerate(options))
    index = _gold(gold.strip(), texts)
    problem = ""
    if index < 0:
        problem = f"the set's answer {gold!r} is none of its options"
    elif not texts[index]:
        problem = f"the set's right option, {LETTERS[index]}, is empty"
    prompt = choice_prompt(question, texts)
    return Question(
        prompt,
        media,
        key,
        sound,
        answer="" if problem else LETTERS[index],
        rule=Choice(texts, index),
        type=type,
        cluster=cluster,
        problem=problem,
    )


def _gold(gold: str, texts: Sequence[str]) -> int:
    """The right option's index, -1 if it is none."""
    letter = re.fullmatch(r"\(?([A-Z])\)?[.:]?", gold)
    if letter and letter[1] in LETTERS[: len(texts)]:
        return LETTERS.index(letter[1])
    fits = (
        i for i, text in enumerate(texts) if normalised(text) in {normalised(gold), normalised(bare(gold, i))} - {""}
    )
    return next(fits, -1)
