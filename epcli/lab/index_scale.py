"""How long a search takes, and how large an index is, with any number of hours: films of random words and sightings.

    python -m epcli.lab.index_scale FILE.sqlite [HOURS]

Each hour has 600 lines of 15 words, drawn as words are (Zipf), and 900 sightings of 60 of the names that the parts
know. The vectors of the lines lie around those of real texts. An index that is there already is only searched.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from epcli.find.index import Index, Observed
from epcli.find.observer import Texts
from epcli.find.passages import Findings, Line, Sighting
from epcli.find.search import Search
from epcli.observe import names
from epcli.observe.minilm import MiniLM
from epcli.observe.weights import MINILM_TOKENIZER, fetch

LINES, WORDS, SIGHTINGS, NAMES = 600, 15, 900, 60  # of an hour; words of a line, different names
SOUNDS = ("dog barking", "music", "speech", "car", "violin", "water", "rain", "train", "applause", "laughter")
QUERIES = (
    *("a dog barking", "somebody says 'station'", "the EXIT sign", "people on bicycles", "vehicle", "music"),
    *("the second law of thermodynamics", "president said something about war", "a man in the street", "person"),
)


class Films:
    """Makes up what is observed in an hour of film."""

    def __init__(self, minilm: MiniLM, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        (tokenizer,) = fetch(MINILM_TOKENIZER)
        vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
        self._words = [word for word in vocabulary if word.isalpha() and len(word) > 2]
        self._rarity = _zipf(len(self._words))
        self._names = [("seen", name) for name in names.all_names()] + [("heard", name) for name in SOUNDS]
        self._random.shuffle(self._names)
        self._texts = Texts(minilm.embed)
        self._meanings = minilm.embed([self._line() for _ in range(1000)])

    def _line(self) -> str:
        return " ".join(self._random.choice(self._words, WORDS, p=self._rarity))

    def hour(self, number: int) -> Observed:
        """One film."""
        named = self._random.choice(len(self._names), NAMES, p=_zipf(len(self._names)), replace=False)
        seen = []
        for name in self._random.choice(named, SIGHTINGS):
            how, text = self._names[name]
            start_s, lasts_s = self._random.uniform(0, 3590), self._random.exponential(6)
            seen.append(Sighting(how, text, start_s, start_s + lasts_s, self._random.uniform(0.5, 1), "left", 1))
        made = self._texts.observed(Findings((), tuple(seen)), 1, 1, f"film {number}", 3600.0)
        lines = tuple(Line("said", self._line(), 6.0 * k, 6.0 * k + 5.5, 0.9) for k in range(LINES))
        near = self._meanings[self._random.integers(0, len(self._meanings), LINES)]
        near = near + self._random.normal(0, 0.035, near.shape).astype(np.float32)
        unit = near / np.linalg.norm(near, axis=1, keepdims=True)
        return Observed(
            made.size,
            made.modified,
            made.content,
            made.duration_s,
            Findings(lines, made.findings.sightings),
            unit,
            made.names,
            made.name_vectors,
        )


def _zipf(count: int) -> np.ndarray:
    shares: np.ndarray = 1 / np.arange(1, count + 1)
    return shares / shares.sum()


def main(path: Path, hours: int) -> None:
    """Build the index if there is none; then time the queries, which were asked once before."""
    minilm, there = MiniLM(), path.exists()
    with Index(path) as index:
        if not there:
            films = Films(minilm)
            for number in range(hours):
                index.put(Path(f"/films/{number}.mp4"), films.hour(number))
        totals = index.totals()
        print(
            f"{totals.hours:.0f} h, {totals.lines:,} lines, {totals.sightings:,} sightings, {totals.size_bytes:,} bytes"
        )
        search = Search(index, minilm.embed)
        for query in QUERIES:
            search.find(query)
        for query in QUERIES:
            began, busy = time.perf_counter(), time.process_time()
            count = len(search.find(query))
            wall_s, cpu_s = time.perf_counter() - began, time.process_time() - busy
            print(f"{1000 * wall_s:5.0f} ms, {1000 * cpu_s:5.0f} ms of processor: {query} ({count})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
