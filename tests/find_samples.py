"""Files as the small parts might report them, and texts compared by their words alone: no model is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from epcli.find.index import Index, Observed
from epcli.find.observer import Texts
from epcli.find.passages import findings
from epcli.records import Observation


def words(text: str, start_s: float = 0.0, step_s: float = 0.4) -> list[Observation]:
    return [
        Observation("word", word, start_s + number * step_s, start_s + number * step_s + 0.35, 0.9, "whisper")
        for number, word in enumerate(text.split())
    ]


def thing(name: str, start_s: float, end_s: float, **more: object) -> Observation:
    return Observation("object", name, start_s, end_s, 0.8, "nanodet", **more)  # type: ignore[arg-type]


def sound(name: str, start_s: float, end_s: float) -> Observation:
    return Observation("sound", name, start_s, end_s, 0.8, "yamnet")


def sign(text: str, start_s: float, end_s: float) -> Observation:
    return Observation("text", text, start_s, end_s, 0.95, "rapidocr", (0.4, 0.05, 0.6, 0.2))


CLIPS = {
    "yard.mp4": [thing("dog", 40, 47, box=(0.0, 0.4, 0.3, 0.9)), sound("dog barking", 42, 47), thing("person", 0, 60)],
    "park.mp4": [thing("dog", 0, 30, count=3)],
    "cat.mp4": [thing("cat", 0, 10), sound("meowing", 2, 3)],
    "exit.mp4": [sign("EXIT", 12, 15), thing("person", 12, 20)],
    "stop.mp4": [thing("stop sign", 1, 5), sign("STOP", 1, 5)],
    "ride.mp4": [thing("person", 0, 20, count=4), thing("bicycle", 3, 18, count=3)],
    "shop.mp4": [thing("bicycle", 0, 20, count=5)],
    "city.mp4": [thing("bus", 0, 20), thing("person", 0, 20, count=7), sound("car", 0, 20)],
    "lecture3.mp4": words(
        "Today we talk about the second law of thermodynamics. It says that the entropy of a closed system never "
        "decreases. That is why heat flows from hot to cold.",
        724,
    ),
    "news.mp4": words("The train to Berlin leaves from the central station at nine. Please mind the gap.", 10),
    "concert.mp4": [sound("violin", 0, 60), sound("music", 0, 90), thing("person", 0, 90, count=12)],
    "money.mp4": words("Interest rates were raised by the central bank. Mortgage payments become more expensive.", 3),
}


def by_words(texts: Sequence[str]) -> np.ndarray:
    """(N, 384) float32 of length 1: the mean of a random direction for each word."""
    rows = np.zeros((len(texts), 384), np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.casefold()) or [""]:
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
            rows[row] += np.random.default_rng(seed).standard_normal(384).astype(np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def observed(
    observations: Sequence[Observation], size: int = 1, modified: int = 1, content: str | None = None
) -> Observed:
    return Texts(by_words).observed(findings(observations), size, modified, content, 100.0)


def fill(index: Index, folder: Path) -> None:
    """CLIPS as files of a folder."""
    for name, observations in CLIPS.items():
        index.put(folder / name, observed(observations, content=name))
