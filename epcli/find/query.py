"""What a query asks for: its terms, and whether it hints at speech, sound, picture or writing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from epcli.errors import UsageError
from epcli.find.passages import HEARD, READ, SAID, SEEN
from epcli.text import as_question

MOST_TERMS = 16  # more words than these are left to the meaning of the whole
LONGEST = 1000  # characters
UNHINTED = 0.7  # of what the query does not hint at, where it hints at something
SPEAKER = 0.12  # of a word for who speaks, who may not be in the picture
WEAK = 0.25  # of a word that says where to look as much as what for: "sign", "sound"

_QUOTED = re.compile(r"""["“”„«»]([^"“”„«»]+)["“”„«»]|(?<!\w)['‘’‚]([^'‘’‚]+)['‘’](?!\w)""")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that carry no meaning of their own here.
_STOP = _words(
    "a an the this that these those some any every each all both no of in on at by for from to into onto with without "
    "and or but if as is are was were be been being am do does did has have had having there here where when which who "
    "whom whose what how why i you he she it we they me him her us them my your his its our their one ones "
    "somebody someone anybody anyone something anything thing things very just also then than so not can could will "
    "would shall should may might must about over under near next it's there's that's i'm while during find show me "
    "please moment moments clip clips video videos film films file files"
)

# Words that say where to look. Those of the first group mean nothing else, those of the second are weak terms too.
_CUES = {
    SAID: (
        "say says said saying tell tells told telling mention mentions mentioned mentioning speak speaks spoke "
        "speaking talk talks talked talking discuss discusses discussed discussing explain explains explained "
        "explaining",
        "word words speech phrase sentence voice",
    ),
    HEARD: ("hear hears heard hearing listen listens audible", "sound sounds noise noises"),
    SEEN: ("see sees seen seeing shows shown showing visible look looks looking", "picture view"),
    READ: (
        "read reads reading written writes writing labelled labeled titled",
        "sign signs title titles caption captions label labels text subtitle poster screen slide board logo",
    ),
}
_ONLY = {word: how for how, (only, _) in _CUES.items() for word in _words(only)}
_ALSO = {word: how for how, (_, also) in _CUES.items() for word in _words(also)}

# The parts that see report a person, whoever it is.
_PEOPLE = _words(
    "man men woman women child children boy boys girl girls kid kids guy guys lady ladies human humans pedestrian "
    "pedestrians people person persons adult adults worker workers player players"
)


@dataclass(frozen=True)
class Term:
    """A word of the query, or a phrase that was quoted."""

    text: str
    weight: float = 1.0  # beside its rarity
    also: tuple[str, ...] = ()  # broader words that count less
    literal: bool = False  # quoted: what only means the same is no match

    @property
    def fts(self) -> str:
        """As FTS5 takes it: one string, so that nothing in it is an operator."""
        return f'"{self.text.replace(chr(34), " ")}"'


@dataclass(frozen=True)
class Query:
    """What is looked for."""

    text: str  # for its meaning: without the words that only say where to look
    terms: tuple[Term, ...]
    hints: Mapping[str, float]  # of SAID, HEARD, SEEN and READ: 1, or less where the query hints at another


def parse(text: str) -> Query:
    """A query as people type it. Raises UsageError for one that is empty, far too long, or without any word."""
    text = " ".join(as_question(text, "the query", "what to find").split())
    if len(text) > LONGEST:
        raise UsageError(f"the query is {len(text):,} characters long; {LONGEST:,} are the most")
    quoted = [one or other for one, other in _QUOTED.findall(text)]
    rest = _QUOTED.sub(" ", text)
    words = [match[0].replace("’", "'") for match in _WORD.finditer(rest)]
    hinted = {_ONLY.get(word.casefold()) or _ALSO.get(word.casefold()) for word in words} - {None}
    if any(len(word) > 2 and word.isupper() for word in words) and not rest.isupper():
        hinted.add(READ)  # "the EXIT sign": people write what is written as it is written
    terms = [Term(" ".join(_WORD.findall(each)), literal=True) for each in quoted if _WORD.search(each)]
    terms += [_term(word, hinted) for word in words if word.casefold() not in _STOP and word.casefold() not in _ONLY]
    if all(term.weight < 1 for term in terms):  # "sound", "a woman speaking": then these words are what is meant
        terms = [_meant(word) for word in words if word.casefold() not in _STOP] or [Term(word) for word in words]
        hinted = set()
    if not terms:
        raise UsageError(f"{text!r}: there is no word in the query")
    hints = {how: UNHINTED if hinted and how not in hinted else 1.0 for how in (SAID, HEARD, SEEN, READ)}
    unique = tuple(dict.fromkeys(terms))[:MOST_TERMS]
    return Query(_meaning(text, words, quoted), unique, hints)


def _term(word: str, hinted: Collection[str | None]) -> Term:
    folded = word.casefold()
    if folded in _PEOPLE:
        return Term(word, SPEAKER if SAID in hinted else 1.0, ("person",))
    return Term(word, WEAK if folded in _ALSO else 1.0)


def _meant(word: str) -> Term:
    """A word that only hints, where nothing else is looked for: speech itself, then."""
    if word.casefold() in _PEOPLE:
        return _term(word, {SAID})
    return Term(word, also=("speech",) if _ONLY.get(word.casefold()) == SAID else ())


def _meaning(text: str, words: list[str], quoted: list[str]) -> str:
    """The query as a sentence whose meaning is compared."""
    if not any(word.casefold() in _ONLY for word in words):
        return text
    kept = [word for word in words if word.casefold() not in _ONLY and word.casefold() not in {"somebody", "someone"}]
    if all(word.casefold() in _STOP for word in kept):
        kept = []
    return " ".join([*kept, *quoted]) or text
