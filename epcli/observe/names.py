"""Everyday names of what the parts that see report: what to call it, and which broader kinds it belongs to.

Two tables, made by epcli/lab/names.py: `names.tsv` (ImageNet's classes, with their coarser names after WordNet) and
`kinds.tsv` (every name that may be reported). No model library is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_SPEAKS_FOR = "~"


@dataclass(frozen=True)
class Fine:
    """One of ImageNet's classes."""

    name: str  # as people say it; several classes may share a name
    trusted: bool  # whether a whole frame that looks like it nearly always is it
    kinds: tuple[str, ...]  # coarser names, narrowest first
    speaks_for: tuple[str, ...]  # coarser names that it is evidence of, although it is not one: car of "car wheel"


@dataclass(frozen=True)
class _Word:
    article: str
    plural: str
    kinds: tuple[str, ...]


@cache
def classes() -> tuple[Fine, ...]:
    """ImageNet's 1000 classes in the order of the logits."""
    found = []
    for name, trusted, chain in _rows("names.tsv"):
        above = _split(chain)
        found.append(
            Fine(
                name,
                trusted == "yes",
                tuple(each for each in above if not each.startswith(_SPEAKS_FOR)),
                tuple(each.removeprefix(_SPEAKS_FOR) for each in above if each.startswith(_SPEAKS_FOR)),
            )
        )
    return tuple(found)


@cache
def fine_names() -> tuple[str, ...]:
    """The trusted everyday names of ImageNet's classes, each once, in the order of the logits."""
    return tuple(dict.fromkeys(each.name for each in classes() if each.trusted))


@cache
def coarse_names() -> tuple[str, ...]:
    """The coarser names, those with fewest classes first."""
    covers: dict[str, int] = {}
    for each in classes():
        for name in each.kinds:
            covers[name] = covers.get(name, 0) + 1
    return tuple(sorted(covers, key=lambda name: (covers[name], name)))


@cache
def all_names() -> tuple[str, ...]:
    """Every name that has kinds, an article and a plural: COCO's 80, the fine and the coarse names."""
    return tuple(_words())


def kinds(name: str) -> tuple[str, ...]:
    """The broader everyday kinds of a thing, narrowest first: ("dog", "animal") of "golden retriever"; () if none."""
    word = _words().get(name)
    return word.kinds if word else ()


def article(name: str) -> str:
    """ "a", "an", or "" for what is not counted (bread) or always many (scissors). Raises KeyError: unknown name."""
    return _words()[name].article


def plural(name: str) -> str:
    """Several of it; the name itself where it is not counted or always many. Raises KeyError: unknown name."""
    return _words()[name].plural


@cache
def _words() -> dict[str, _Word]:
    return {name: _Word(before, many, _split(of)) for name, before, many, of in _rows("kinds.tsv")}


def _rows(table: str) -> list[list[str]]:
    text = files("epcli.observe").joinpath(f"data/{table}").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")]


def _split(chain: str) -> tuple[str, ...]:
    return tuple(chain.split(", ")) if chain else ()
