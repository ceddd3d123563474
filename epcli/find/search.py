"""Search: which moments of which files match a query, best first, and why.

    query ─┬─ by stem: lines (BM25), names and their kinds ─┬─▶ passages ─▶ moments ─▶ ranked, the weak left out
           └─ by meaning: lines, names ─────────────────────┘

Each term of the query is matched with each passage, from 0 to 1. A moment is the time of one passage, and what else
matches meanwhile counts too: a dog that is seen while barking is heard. Its score is the mean over the terms, the rarer
ones with more weight. A line that means what the whole query means counts as a match of every term.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from epcli.find.index import STEMS, Index, bits, vectors, within
from epcli.find.passages import HOWS, READ, SAID
from epcli.find.query import Query, Term, parse
from epcli.text import singular

LEAST = 0.5  # of a moment's score: what matches less is left out
LINES = 300  # most that are looked at by stem, and as many by meaning
FILES = 200  # most that are looked at closely
ANCHORS = 150  # most moments of one file that are compared
BY_KIND = 0.9  # what a match with what a name is a kind of counts
BY_WIDER = 0.8  # what a match with a broader word for a term counts
PARTLY = 0.45  # of a match with a word of a name that is not its last: "fire" of "fire engine"
BY_MEANING = 0.9  # what the closest meaning counts
NAME_COSINES = (0.63, 0.83)  # of a term and a name: from no match to a full one
LINE_COSINES = (0.22, 0.47)  # of a query and a line of FEWEST_WORDS
FEWEST_WORDS = 3  # a line of fewer is compared as a name is
WHOLE_COSINES = (0.20, 0.60)  # of a query and all that matches in a moment
WHOLE = 1.5  # times the share of the query that does not match: what a moment of another meaning loses
BOTH = 0.1  # most that a match gains where something else of another kind matches too: barking, beside a dog
MATCHES = 0.4  # from here on something matches
UNKNOWN = 0.4  # weight of a term that is nowhere in the index, beside the others' mean
NEAR_S = 2.0  # what matches so shortly before or after counts
JOINED_S = 60.0  # moments that follow each other are joined up to this length
COMMON = 20_000  # lines with a term that are counted
REASONS = 4  # most that are told of a moment

_LATEST_S = 9e9  # the year 2255: about the last that SQLite's integers hold in ns

Embed = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Reason:
    """What of a moment matches."""

    how: str  # "said", "heard", "seen" or "read"
    text: str  # what was said or read, or the name of what was heard or seen
    start_s: float
    end_s: float
    confidence: float  # 0 to 1
    place: str  # left, top right …; "" where it is not known or in the middle
    count: int  # most at a time


@dataclass(frozen=True)
class Hit:
    """A moment that matches."""

    path: Path
    start_s: float
    end_s: float
    score: float  # 0 to 1
    why: tuple[Reason, ...]  # the strongest, in the order said, heard, seen, read

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "path": os.fspath(self.path),
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "score": round(self.score, 3),
            "why": [
                {
                    "how": each.how,
                    "text": each.text,
                    "start_s": round(each.start_s, 3),
                    "end_s": round(each.end_s, 3),
                    "confidence": round(each.confidence, 3),
                    "place": each.place,
                    "count": each.count,
                }
                for each in self.why
            ],
        }


@dataclass(frozen=True)
class Scope:
    """What is searched."""

    places: tuple[Path, ...] = ()  # files and folders; none: all
    hows: frozenset[str] = frozenset(HOWS)
    since: float | None = None  # only files last written since then, seconds since the epoch

    def condition(self) -> tuple[str, list[Any]]:
        """As an SQL condition on `files`, and its values."""
        condition, values = within(self.places)
        since = int(min(max(self.since or 0.0, 0.0), _LATEST_S) * 1e9)
        return f"files.gone IS NULL AND files.modified >= ? AND {condition}", [since, *values]


@dataclass
class _Passage:
    """A line or sighting, and how well it matches each term."""

    reason: Reason
    matches: np.ndarray  # (T,) 0 to 1
    meaning: np.ndarray  # (384,) float32 of length 1


@dataclass(frozen=True)
class _Moment:
    """A stretch of a file."""

    start_s: float
    end_s: float
    score: float
    lacking: float  # the share of the query that nothing of it matches
    reasons: frozenset[int]  # which passages match


@dataclass
class _Found:
    """What the first look brings up."""

    files: dict[int, np.ndarray]  # the best match of each term in each file, (T,)
    lines: dict[int, list[_Passage]]  # that match, of each file
    names: dict[int, np.ndarray]  # the match of each term with each name, (T,)
    name_meanings: dict[int, np.ndarray]  # (384,) float32 of length 1
    counts: np.ndarray  # (T,) how many files (by names) and lines have a term


@dataclass
class Search:
    """Searches an index, any number of times."""

    index: Index
    embed: Embed
    _codes: tuple[Any, np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    def find(
        self,
        text: str,
        scope: Scope = Scope(),
        limit: int = 10,
        least: float = LEAST,
        wanted: Callable[[Path], bool] = lambda path: True,
    ) -> list[Hit]:
        """The moments that match, best first, at most `limit`, of the files that are `wanted`.

        `least`: the lowest score that is shown. Raises UsageError for a query without words.
        """
        query = parse(text)
        with self.index.damage():
            return self._find(query, scope, limit, least, wanted)

    def _find(self, query: Query, scope: Scope, limit: int, least: float, wanted: Callable[[Path], bool]) -> list[Hit]:
        terms = query.terms
        wordings = [*(term.text for term in terms), *(singular(term.text) for term in terms)]  # names are singular
        meanings = self.embed([query.text, *wordings])
        found = _Found({}, {}, {}, {}, np.zeros(len(terms)))
        hints = query.hints
        if scope.hows - {SAID, READ}:
            self._match_names(terms, meanings[1:].reshape(2, len(terms), -1), scope, hints, found)
        if scope.hows & {SAID, READ}:
            self._match_lines(query, meanings[0], scope, found)
        weights = self._weights(terms, found, scope)
        if not found.files:
            return []
        hopeful = sorted(found.files, key=lambda file: -float(found.files[file] @ weights))[:FILES]
        hits: list[Hit] = []
        for file in hopeful:
            best = float(found.files[file] @ weights)
            if best < least or (
                len(hits) >= limit and best + BOTH < sorted((hit.score for hit in hits), reverse=True)[limit - 1]
            ):
                break
            if wanted(path := self._path(file)):
                passages = [*self._sightings(file, found), *found.lines.get(file, [])]
                hits += _hits(path, passages, weights, meanings[0], least)
        return sorted(hits, key=lambda hit: (-round(hit.score, 3), hit.path, hit.start_s))[:limit]

    # --- What matches ---------------------------------------------------------------------------------

    def _match_names(
        self, terms: Sequence[Term], meanings: np.ndarray, scope: Scope, hints: Mapping[str, float], found: _Found
    ) -> None:
        """`meanings`: (2, T, 384), of the terms as they are and in the singular."""
        rows = [row for row in self.index.base.execute("SELECT id, how, value FROM names") if row[1] in scope.hows]
        if not rows:
            return
        place = {row[0]: number for number, row in enumerate(rows)}
        known = vectors([row[2] for row in rows])
        cosines = np.maximum(*(known @ wording.T for wording in meanings))  # (N, T)
        matches = ramp(cosines, NAME_COSINES) * BY_MEANING * _free(terms)
        whole, part = np.zeros_like(matches), np.zeros_like(matches)
        for number, term in enumerate(terms):
            for into, words, column, worth in _wordings(term, whole, part):
                for name in self._names_with(f"{column} : {words}"):
                    if name in place:
                        into[place[name], number] = max(into[place[name], number], worth)
        alone = whole.max(1, keepdims=True) < BY_WIDER  # "fire" alone is no fire engine; with "engine" it is
        matches = np.maximum(matches, np.maximum(whole, np.where(alone, PARTLY * part, part)))
        matches *= np.array([hints[row[1]] for row in rows])[:, None]
        found.names = {row[0]: match for row, match in zip(rows, matches, strict=True) if match.max() > 0.2}
        found.name_meanings = {name: known[place[name]] for name in found.names}
        condition, values = scope.condition()
        for name, match in found.names.items():
            holders = self.index.base.execute(
                "SELECT file, confidence FROM holds CROSS JOIN files ON files.id = file "
                f"WHERE name = ? AND {condition}",
                [name, *values],
            )
            count = 0
            for file, confidence in holders:
                count += 1
                _raise(found.files, file, match * _sure(confidence))
            found.counts += count * (match > MATCHES)

    def _match_lines(self, query: Query, meaning: np.ndarray, scope: Scope, found: _Found) -> None:
        near = [*self._lines_by_stem(query, scope), *self._near_lines(meaning, scope)]
        condition, values = scope.condition()
        rows = self.index.base.execute(
            "SELECT lines.id, file, how, text, start_s, end_s, confidence, place, value FROM lines "
            "JOIN vectors ON vectors.line = lines.id JOIN files ON files.id = file "
            f"WHERE lines.id IN ({_marks(near)}) AND {condition}",
            [*near, *values],
        ).fetchall()
        rows = [row for row in rows if row[2] in scope.hows]
        meanings = vectors([row[-1] for row in rows])
        matches = self._literal([row[3] for row in rows], query.terms)
        for (_, file, how, text, start_s, end_s, confidence, place, _), vector, match in zip(
            rows, meanings, matches, strict=True
        ):
            limits = NAME_COSINES if len(text.split()) < FEWEST_WORDS else LINE_COSINES
            close = float(ramp(vector @ meaning, limits)) * BY_MEANING
            match = np.maximum(match, close * _free(query.terms)) * query.hints[how] * _sure(confidence)
            if match.max() > 0:
                reason = Reason(how, text, start_s, end_s, confidence, place, 1)
                found.lines.setdefault(file, []).append(_Passage(reason, match, vector))
                _raise(found.files, file, match)
        found.counts += [self._count(term) for term in query.terms]

    def _lines_by_stem(self, query: Query, scope: Scope) -> list[int]:
        """The best lines by BM25."""
        match = " OR ".join(term.fts for term in query.terms)
        if scope.places or scope.since is not None:
            condition, values = scope.condition()
            rows = self.index.base.execute(
                "SELECT lines.id FROM line_search JOIN lines ON lines.id = line_search.rowid "
                f"JOIN files ON files.id = lines.file WHERE line_search MATCH ? AND {condition} ORDER BY rank LIMIT ?",
                [match, *values, LINES],
            )
        else:  # without a look at each line's file
            rows = self.index.base.execute(
                "SELECT rowid FROM line_search WHERE line_search MATCH ? ORDER BY rank LIMIT ?", (match, LINES)
            )
        return [row[0] for row in rows]

    def _literal(self, texts: Sequence[str], terms: Sequence[Term]) -> np.ndarray:
        """(N, T) 1 where a text holds a term, by stem."""
        found = np.zeros((len(texts), len(terms)))
        few = sqlite3.connect(":memory:")  # the whole index would be walked for each term
        try:
            few.execute(f"CREATE VIRTUAL TABLE few USING fts5 (text, tokenize = '{STEMS}')")
            few.executemany("INSERT INTO few (rowid, text) VALUES (?, ?)", enumerate(texts))
            for number, term in enumerate(terms):
                for (row,) in few.execute("SELECT rowid FROM few WHERE few MATCH ?", (term.fts,)):
                    found[row, number] = 1.0
        finally:
            few.close()
        return found

    def _near_lines(self, meaning: np.ndarray, scope: Scope) -> list[int]:
        """The lines whose meaning may be near the query's."""
        ids, codes = self._all_codes(scope)
        if not len(ids):
            return []
        wanted = np.frombuffer(bits(meaning[None]), np.uint64)
        distance = np.zeros(len(ids), np.uint16)
        for column, value in zip(codes, wanted, strict=True):
            distance += np.bitwise_count(column ^ value)
        count = min(LINES, len(ids))
        nearest: list[int] = ids[np.argpartition(distance, count - 1)[:count]].tolist()
        return nearest

    def _all_codes(self, scope: Scope) -> tuple[np.ndarray, np.ndarray]:
        """(N,) lines of the scope, and (6, N) uint64 with the signs of their vectors; kept while nothing changes."""
        (version,) = self.index.base.execute("PRAGMA data_version").fetchone()
        key = (version, scope)
        if self._codes is None or self._codes[0] != key:
            condition, values = scope.condition()
            rows = self.index.base.execute(
                f"SELECT first, bits FROM codes JOIN files ON files.id = codes.file WHERE {condition}", values
            ).fetchall()
            codes = np.frombuffer(b"".join(row[1] for row in rows), np.uint64).reshape(-1, 6).T.copy()
            ids = [np.arange(first, first + len(blob) // 48) for first, blob in rows]
            self._codes = (key, np.concatenate(ids) if ids else np.zeros(0, np.int64), codes)
        return self._codes[1], self._codes[2]

    def _names_with(self, match: str) -> list[int]:
        """The names that match, by stem."""
        rows = self.index.base.execute("SELECT rowid FROM name_search WHERE name_search MATCH ?", (match,))
        return [row[0] for row in rows]

    def _count(self, term: Term) -> int:
        """How many lines have a term, of all; no more than COMMON."""
        (count,) = self.index.base.execute(
            "SELECT count(*) FROM (SELECT 1 FROM line_search WHERE line_search MATCH ? LIMIT ?)", (term.fts, COMMON)
        ).fetchone()
        return int(count)

    def _weights(self, terms: Sequence[Term], found: _Found, scope: Scope) -> np.ndarray:
        """(T,) how much each term counts; they sum to 1. The rarer, the more; little where it is nowhere."""
        total = 1 + self.index.base.execute("SELECT count(*) FROM files").fetchone()[0]
        if scope.hows & {SAID, READ}:
            total += self.index.base.execute("SELECT ifnull(max(id), 0) FROM lines").fetchone()[0]
        rarity = np.array([math.log((total + 1) / (min(count, total) + 0.5)) for count in found.counts])
        known = found.counts > 0
        rarity[~known] = UNKNOWN * (rarity[known].mean() if known.any() else 1.0)
        weights = np.maximum(rarity, 0.1) * np.array([term.weight for term in terms])
        shares: np.ndarray = weights / weights.sum()
        return shares

    def _sightings(self, file: int, found: _Found) -> Iterator[_Passage]:
        names = list(found.names)
        rows = self.index.base.execute(
            "SELECT name, how, text, start_s, end_s, confidence, place, count FROM sightings "
            f"JOIN names ON names.id = name WHERE file = ? AND name IN ({_marks(names)})",
            [file, *names],
        )
        for name, *reason in rows:
            yield _Passage(Reason(*reason), found.names[name] * _sure(reason[4]), found.name_meanings[name])

    def _path(self, file: int) -> Path:
        (path,) = self.index.base.execute("SELECT path FROM files WHERE id = ?", (file,)).fetchone()
        return Path(os.fsdecode(path))


def _marks(values: Sequence[object]) -> str:
    """Place holders of an SQL list."""
    return ", ".join("?" * len(values))


def ramp(cosines: Any, limits: tuple[float, float]) -> np.ndarray:
    """From 0 at the lower limit to 1 at the upper."""
    low, high = limits
    shares: np.ndarray = np.clip((cosines - low) / (high - low), 0.0, 1.0)
    return shares


def _free(terms: Sequence[Term]) -> np.ndarray:
    """(T,) 1 for each term that may be matched by meaning, 0 for those that are literal."""
    return np.array([not term.literal for term in terms], float)


def _wordings(term: Term, whole: np.ndarray, part: np.ndarray) -> Iterator[tuple[np.ndarray, str, str, float]]:
    """How a term may stand in a name: what it is a match of, as FTS5 takes it, in which column, and what it counts."""
    yield whole, term.fts, "head", 1.0
    yield part, term.fts, "text", 1.0
    yield whole, term.fts, "kind_heads", BY_KIND
    yield part, term.fts, "kinds", BY_KIND
    for wider in term.also:
        yield whole, Term(wider).fts, "head", BY_WIDER


def _raise(files: dict[int, np.ndarray], file: int, match: np.ndarray) -> None:
    before = files.get(file)
    files[file] = match if before is None else np.maximum(before, match)


def _sure(confidence: float) -> float:
    """What the confidence of a part leaves of a match."""
    return 0.7 + 0.3 * min(max(confidence, 0.0), 1.0)


# --- Moments --------------------------------------------------------------------------------------------


def _hits(
    path: Path, passages: Sequence[_Passage], weights: np.ndarray, meaning: np.ndarray, least: float
) -> Iterator[Hit]:
    """The moments of one file that match. weights: (T,) of the terms; meaning: (384,) of the query."""
    for moment in _joined(_moments(passages, weights, least)):
        matching = [passages[each] for each in moment.reasons]
        unlike = 1 - float(ramp(_likeness(matching, meaning), WHOLE_COSINES))
        score = moment.score * max(0.0, 1 - WHOLE * unlike * moment.lacking)
        if score >= least:
            yield Hit(path, moment.start_s, moment.end_s, score, _why(matching, weights))


def _moments(passages: Sequence[_Passage], weights: np.ndarray, least: float) -> list[_Moment]:
    """The times of the best of P passages, best first; none overlaps a better one."""
    starts = np.array([each.reason.start_s for each in passages])
    ends = np.array([each.reason.end_s for each in passages])
    matches = np.stack([each.matches for each in passages])  # (P, T)
    anchors = np.argsort(-(matches @ weights), kind="stable")[:ANCHORS]
    begin, end = starts[anchors, None], np.maximum(ends[anchors, None], starts[anchors, None] + 1.0)
    shared = np.minimum(end + NEAR_S, ends) - np.maximum(begin - NEAR_S, starts)  # (A, P) seconds in common
    share = np.clip(np.where(shared >= 0, np.maximum(shared, 1.0), 0.0) / (end - begin), 0.0, 1.0)
    hows = np.array([each.reason.how for each in passages])
    ways = np.sort(
        [_best(share[:, hows == how], matches[hows == how]) for how in set(hows.tolist())], 0
    )  # (hows, A, T)
    best, other = ways[-1], ways[-2] if len(ways) > 1 else np.zeros_like(ways[-1])
    scores = (best + np.minimum(1 - best, BOTH * other)) @ weights
    enough = best @ weights >= least
    lacking = (best < MATCHES) @ weights
    taken: list[_Moment] = []
    for row in np.lexsort((ends[anchors] - starts[anchors], -np.round(scores, 3))):
        if not enough[row]:
            continue
        start, stop = float(starts[anchors[row]]), float(ends[anchors[row]])
        if any(start <= other.end_s and stop >= other.start_s for other in taken):
            continue
        reasons = frozenset((int(anchors[row]), *np.flatnonzero(share[row] > 0.3).tolist()))
        taken.append(_Moment(start, stop, float(scores[row]), float(lacking[row]), reasons))
    return taken


def _best(share: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """(A, P) shares of the times of A moments and (P, T) matches -> (A, T) the best match of each term."""
    return np.stack([(share * matches[:, term]).max(1) for term in range(matches.shape[1])], 1)


def _joined(moments: Iterable[_Moment]) -> list[_Moment]:
    """Moments that follow each other, as one."""
    joined: list[_Moment] = []
    for each in sorted(moments, key=lambda moment: moment.start_s):
        last = joined[-1] if joined else None
        if last and each.start_s - last.end_s <= NEAR_S and each.end_s - last.start_s <= JOINED_S:
            better = max(last, each, key=lambda moment: moment.score)
            joined[-1] = replace(
                better, start_s=last.start_s, end_s=max(last.end_s, each.end_s), reasons=last.reasons | each.reasons
            )
        else:
            joined.append(each)
    return joined


def _likeness(passages: Sequence[_Passage], meaning: np.ndarray) -> np.ndarray:
    """The cosine of a query's meaning and that of a moment: of its nearest line, or of all its names together."""
    lines = [each.meaning for each in passages if each.reason.how in (SAID, READ)]
    names = {each.reason.text: each.meaning for each in passages if each.reason.how not in (SAID, READ)}
    if names:
        together = np.sum(list(names.values()), axis=0)
        lines.append(together / np.linalg.norm(together))
    highest: np.ndarray = (np.stack(lines) @ meaning).max()
    return highest


def _why(passages: Sequence[_Passage], weights: np.ndarray) -> tuple[Reason, ...]:
    """The strongest reasons, each text once."""
    best: dict[tuple[str, str], tuple[float, Reason]] = defaultdict(lambda: (-1.0, passages[0].reason))
    for each in passages:
        key, strength = (each.reason.how, each.reason.text), float(each.matches @ weights)
        if strength > best[key][0]:
            best[key] = (strength, each.reason)
    strongest = sorted(best.values(), key=lambda pair: -pair[0])
    told = [reason for strength, reason in strongest if strength >= 0.25 * strongest[0][0]][:REASONS]
    return tuple(sorted(told, key=lambda reason: (HOWS.index(reason.how), reason.start_s)))
