"""Words on screen: how boxes become lines, and what RapidOCR reads on drawn frames and on a photograph."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from epcli.errors import WeightsError
from epcli.observe import texts

PHOTOS = Path(__file__).parent / "data" / "photos"
READ = """
import socket, sys
import numpy as np, cv2
def refused(*_, **__):
    raise AssertionError("the network was used")
socket.socket.connect = refused
socket.getaddrinfo = refused
from epcli.observe.texts import TextReader
assert "rapidocr" not in sys.modules and "onnxruntime" not in sys.modules
frame = np.full((240, 480, 3), (30, 90, 40), np.uint8)
cv2.putText(frame, "Platform 9", (60, 130), cv2.FONT_HERSHEY_DUPLEX, 2, (255, 255, 255), 3)
print([text for text, _, _ in TextReader().read(frame)])
"""


def word(text: str, left: float, top: float, right: float, bottom: float, score: float = 0.99) -> texts._Words:
    return texts._Words(text, score, (left, top, right, bottom))


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([word("OPEN", 0.1, 0.1, 0.3, 0.2), word("DAILY", 0.32, 0.1, 0.5, 0.2)], ["OPEN DAILY"]),
        ([word("DAILY", 0.32, 0.11, 0.5, 0.21), word("OPEN", 0.1, 0.1, 0.3, 0.2)], ["OPEN DAILY"]),  # in any order
        ([word("ENTER", 0.6, 0.1, 0.8, 0.2), word("EXIT", 0.1, 0.1, 0.3, 0.2)], ["EXIT", "ENTER"]),  # far apart
        ([word("Tour", 0.1, 0.3, 0.3, 0.4), word("Europe", 0.1, 0.1, 0.3, 0.2)], ["Europe", "Tour"]),  # below
        ([word("GO", 0.1, 0.1, 0.2, 0.2), word("ON", 0.22, 0.1, 0.3, 0.2)], ["GO ON"]),
        ([word("GO", 0.1, 0.1, 0.2, 0.2)], []),  # two letters are often no letters
        ([word("2024", 0.1, 0.1, 0.3, 0.2)], ["2024"]),
        ([word("47A", 0.1, 0.1, 0.3, 0.2, 0.84)], []),  # leaves
        ([word("- . -", 0.1, 0.1, 0.3, 0.2)], []),
        ([], []),
    ],
)
def test_sure_words_side_by_side_are_a_line(words: list[texts._Words], lines: list[str]) -> None:
    assert [line.text for line in texts.lines(words, 16 / 9)] == lines


def test_a_line_has_the_box_around_its_words() -> None:
    (line,) = texts.lines([word("A", 0.1, 0.12, 0.2, 0.2, 0.9), word("BCD", 0.21, 0.1, 0.4, 0.22, 1.0)], 16 / 9)
    assert line == texts._Words("A BCD", pytest.approx(0.95), (0.1, 0.1, 0.4, 0.22))


def test_missing_weights_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="rapidocr"):
        texts.TextReader()


@pytest.mark.slow
def test_text_is_read_in_a_photograph_and_not_in_noise() -> None:
    reader = texts.TextReader()
    parking = cv2.imread(str(PHOTOS / "parking.jpg"))[..., ::-1]
    found = reader.read(parking)
    assert {"EXIT", "ENTER"} <= {text for text, _, _ in found}
    for _, score, (left, top, right, bottom) in found:
        assert score >= texts.SURE
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
    noise = np.random.default_rng(0).integers(0, 256, (360, 480, 3), dtype=np.uint8)
    leaves = cv2.imread(str(PHOTOS / "kitten.jpg"))[..., ::-1]
    assert [reader.read(frame) for frame in (noise, leaves, np.zeros((360, 640, 3), np.uint8))] == [[], [], []]


@pytest.mark.slow
def test_reading_uses_no_network_and_says_nothing() -> None:
    run = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, env=os.environ, timeout=120)
    assert (run.stdout, run.stderr, run.returncode) == ("['Platform 9']\n", "", 0)
