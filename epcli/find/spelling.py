"""What a query with a word that is nowhere in the index was probably meant to be."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches

from epcli.find.index import Index
from epcli.find.query import Term, parse

LIKE, STEM_LIKE = 0.7, 0.6  # least likeness of two words, and of a word and a stem
SHORTEST = 4  # letters of a word that is corrected
STEMS_TRIED = 10
_WORD = re.compile(r"[^\W\d_]{3,}")


def respelled(index: Index, text: str, is_word: Callable[[str], bool]) -> str | None:
    """The query with the nearest known word for each that neither the index nor `is_word` knows; None without any."""
    corrected = text
    for term in parse(text).terms:
        word = term.text
        if len(word) < SHORTEST or not _WORD.fullmatch(word) or is_word(word) or _is_known(index, term):
            continue
        for near in get_close_matches(word.casefold(), _words_like(index, word.casefold()), 1, LIKE):
            corrected = re.sub(rf"\b{word}\b", near.upper() if word.isupper() else near, corrected)
    return corrected if corrected != text else None


def _is_known(index: Index, term: Term) -> bool:
    return any(
        index.base.execute(f"SELECT 1 FROM {table} WHERE {table} MATCH ? LIMIT 1", (term.fts,)).fetchone()
        for table in ("line_search", "name_search")
    )


def _words_like(index: Index, word: str) -> set[str]:
    """The words of all names and kinds, and those of lines whose stems are like the word."""
    texts = [" ".join(row) for row in index.base.execute("SELECT text, kinds FROM names")]
    for kind in ("row", "instance"):
        index.base.execute(
            f"CREATE VIRTUAL TABLE IF NOT EXISTS temp.{kind}s USING fts5vocab ('main', 'line_search', '{kind}')"
        )
    stems = [row[0] for row in index.base.execute("SELECT term FROM rows WHERE substr(term, 1, 1) = ?", (word[0],))]
    for stem in get_close_matches(word, stems, STEMS_TRIED, STEM_LIKE):
        texts += index.base.execute(
            "SELECT text FROM lines WHERE id = (SELECT doc FROM instances WHERE term = ? LIMIT 1)", (stem,)
        ).fetchone()
    return {found.casefold() for text in texts for found in _WORD.findall(text)}
