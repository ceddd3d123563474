"""What a query asks for."""

from __future__ import annotations

import sqlite3

import pytest

from epcli.errors import UsageError
from epcli.find.query import SPEAKER, UNHINTED, WEAK, parse


@pytest.mark.parametrize(
    ("text", "terms", "hinted"),
    [
        ("a dog barking", ["dog", "barking"], ""),
        ("somebody says 'station'", ["station"], "said"),
        ('somebody mentions "the second law" of nature', ["the second law", "nature"], "said"),
        ("the EXIT sign", ["EXIT", "sign"], "read"),
        ("people on bicycles", ["people", "bicycles"], ""),
        ("don't worry", ["don't", "worry"], ""),  # no quotation
        ("where do you hear a violin?", ["violin"], "heard"),
        ("what does it say", ["say"], ""),  # nothing else is left to look for, so it is no hint
        ("a woman speaking", ["woman", "speaking"], ""),
        ("the who", ["the", "who"], ""),
        ("sound", ["sound"], ""),
        ("“gefährliche Straße” вокзал 駅", ["gefährliche Straße", "вокзал", "駅"], ""),
    ],
)
def test_a_query_has_terms_and_hints(text: str, terms: list[str], hinted: str) -> None:
    query = parse(text)
    assert [term.text for term in query.terms] == terms
    assert {how for how, worth in query.hints.items() if worth < 1} == (
        {"said", "heard", "seen", "read"} - {hinted} if hinted else set()
    )
    assert set(query.hints.values()) <= {1.0, UNHINTED}  # a hint never rules anything out


def test_a_word_that_says_where_to_look_counts_less() -> None:
    assert {term.text: term.weight for term in parse("the EXIT sign").terms} == {"EXIT": 1.0, "sign": WEAK}


def test_who_speaks_counts_less_than_that_somebody_speaks() -> None:
    """The parts cannot tell who speaks, and the speaker need not be in the picture."""
    woman, speaking = parse("a woman speaking").terms
    assert (woman.weight, woman.also) == (SPEAKER, ("person",))
    assert (speaking.weight, speaking.also) == (1.0, ("speech",))
    assert [term.weight for term in parse("a woman says 'harvest'").terms] == [1.0, SPEAKER]
    assert [term.weight for term in parse("a woman on a beach").terms] == [1.0, 1.0]


@pytest.mark.parametrize("text", ["", "  ", "?!", "x" * 1001, "a\0b", "'' \"\""])
def test_what_cannot_be_looked_for_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


NASTY = [
    'dog" OR text:*',
    "'; DROP TABLE files; --",
    "NEAR(dog, 3) AND NOT cat*",
    "{text}: ^dog + (cat",
    '"unclosed',
    "col:umn - minus ^caret *star",
    "\x1b[31mred\x07",
    "<script>alert(1)</script>",
    "a" * 999,
    " ".join(["dog"] * 240),
    " ".join(f"word{number}" for number in range(120)),
    "\ud800 dog",
    "% _ \\ dog",
]


@pytest.mark.parametrize("text", NASTY)
def test_no_query_is_an_operator_of_fts5(text: str) -> None:
    base = sqlite3.connect(":memory:")
    base.execute("CREATE VIRTUAL TABLE t USING fts5 (text, also)")
    for term in parse(text).terms:
        base.execute("SELECT * FROM t WHERE t MATCH ?", (term.fts,)).fetchall()
        base.execute("SELECT * FROM t WHERE t MATCH ?", (f"{{text also}} : {term.fts}",)).fetchall()
