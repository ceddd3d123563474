"""How well `ep find` finds, beside plain full-text search and plain embeddings over the same index.

    python -m epcli.lab.retrieval INDEX [QUERIES]

INDEX holds the clips that the queries are about: those of docs/media, and p01 to p15 (real footage). A query's line
names the clips that hold what it asks for, those that may be shown as well ("also"), or none at all.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epcli.find.index import Index, vectors
from epcli.find.query import Term
from epcli.find.search import Search
from epcli.observe.minilm import MiniLM

SHOWN = 5  # clips
Find = Callable[[str], list[str]]  # a query -> clips, best first


@dataclass(frozen=True)
class Asked:
    """A query, and the clips that hold it."""

    query: str
    relevant: frozenset[str]
    also: frozenset[str]


def read(path: Path) -> list[Asked]:
    """A file of queries."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Asked(row["query"], frozenset(row["relevant"]), frozenset(row.get("also", ()))) for row in rows]


def score(find: Find, asked: Sequence[Asked]) -> dict[str, float]:
    """Shares: the first clip is right; recall at 5; precision of what is shown; nothing is shown where nothing is."""
    first, recall, shown, right, silent = [], [], 0, 0, []
    for each in asked:
        found = list(dict.fromkeys(find(each.query)))[:SHOWN]
        counted = [name for name in found if name not in each.also]
        shown += len(counted)
        right += len(each.relevant.intersection(counted))
        if each.relevant:
            first.append(bool(counted) and counted[0] in each.relevant)
            recall.append(len(each.relevant.intersection(found)) / min(SHOWN, len(each.relevant)))
        else:
            silent.append(not counted)
    return {
        "first": float(np.mean(first)),
        "recall at 5": float(np.mean(recall)),
        "precision": right / max(shown, 1),
        "silent": float(np.mean(silent)),
    }


@dataclass(frozen=True)
class Plain:
    """Every line and name of every clip, for the plain ways."""

    clips: list[str]
    texts: list[str]
    meanings: np.ndarray

    @classmethod
    def of(cls, index: Index) -> Plain:
        rows = index.base.execute(
            "SELECT path, text, value FROM lines JOIN vectors ON line = lines.id JOIN files ON files.id = file "
            "UNION ALL SELECT path, text, value FROM holds JOIN names ON names.id = name JOIN files ON files.id = file"
        ).fetchall()
        return cls(
            [Path(row[0].decode()).stem for row in rows], [row[1] for row in rows], vectors([row[2] for row in rows])
        )

    def by_words(self) -> Find:
        """FTS5 with Porter stems, any word, by BM25."""
        base = sqlite3.connect(":memory:")
        base.execute("CREATE VIRTUAL TABLE t USING fts5 (text, tokenize = 'porter unicode61')")
        base.executemany("INSERT INTO t (rowid, text) VALUES (?, ?)", enumerate(self.texts))

        def find(query: str) -> list[str]:
            match = " OR ".join(Term(word).fts for word in query.split() if any(map(str.isalnum, word)))
            rows = base.execute("SELECT rowid FROM t WHERE t MATCH ? ORDER BY rank", (match,))
            return [self.clips[row] for (row,) in rows]

        return find

    def by_meaning(self, embed: Callable[[Sequence[str]], np.ndarray], least: float) -> Find:
        """The nearest texts, from a cosine on."""

        def find(query: str) -> list[str]:
            cosines = self.meanings @ embed([query])[0]
            return [self.clips[row] for row in np.argsort(-cosines) if cosines[row] >= least]

        return find


def main(index: Path, queries: Path) -> None:
    """Print a table."""
    asked, embed = read(queries), MiniLM().embed
    with Index(index, make=False) as known:
        search, plain = Search(known, embed), Plain.of(known)
        ways: dict[str, Find] = {
            "ep find": lambda query: [hit.path.stem for hit in search.find(query, limit=50)],
            "FTS5": plain.by_words(),
        }
        ways |= {f"MiniLM, cosine ≥ {least:g}": plain.by_meaning(embed, least) for least in (-1, 0.3, 0.4, 0.5, 0.6)}
        for name, find in ways.items():
            print(f"| {name:24} | " + " | ".join(f"{what} {share:.2f}" for what, share in score(find, asked).items()))
        for each in asked:
            found = list(dict.fromkeys(ways["ep find"](each.query)))[:SHOWN]
            missed, false = each.relevant - set(found), set(found) - each.relevant - each.also
            if missed or false:
                print(f"{each.query}: missed {sorted(missed)}, false {sorted(false)}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_suffix(".jsonl"))
