"""Words on screen: titles, captions and signs, read by RapidOCR (PP-OCRv6 small, in onnxruntime).

The weights lie inside the `rapidocr` wheel and are named by path: given a path, RapidOCR downloads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from epcli.errors import WeightsError

SURE = 0.85  # score from which words count: below .8, leaves read as "47"
LETTERS = 3  # letters or digits that a line has at least
SIDE = 640  # pixels of the longer side in which words are looked for
_THREADS = 2  # at most: a frame is small
_SAME_LINE = 0.6  # of the lower box's height that two words of a line share at least
_SPACE = 1.0  # of that height: the widest gap between two words of a line

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of width and height


@dataclass(frozen=True)
class _Words:
    text: str
    score: float
    box: Box


class TextReader:
    """The text reader, loaded. Raises WeightsError if the installed `rapidocr` does not hold the weights."""

    def __init__(self) -> None:
        weights = {part: _weights(part) for part in ("det", "rec")}
        import torch
        from rapidocr import RapidOCR

        self._engine: Any = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,  # text that stands on its head
                "Global.text_score": SURE,
                "Det.model_path": str(weights["det"]),
                "Det.limit_side_len": SIDE,
                "Det.limit_type": "max",
                "Rec.model_path": str(weights["rec"]),
                "EngineConfig.onnxruntime.intra_op_num_threads": min(_THREADS, torch.get_num_threads()),
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def read(self, frame: np.ndarray) -> list[tuple[str, float, Box]]:
        """(H, W, 3) uint8 RGB -> each line of words from top to bottom, its score and its box; [] without words."""
        height, width = frame.shape[:2]
        found = self._engine(np.ascontiguousarray(frame[..., ::-1]))
        if not found.txts:
            return []
        boxes = np.clip(np.asarray(found.boxes) / (width, height), 0, 1)  # (n, 4 corners, 2)
        words = [
            _Words(text.strip(), float(score), (*corners.min(0).tolist(), *corners.max(0).tolist()))
            for text, score, corners in zip(found.txts, found.scores, boxes, strict=True)
        ]
        return [(line.text, line.score, line.box) for line in lines(words, width / height)]


def lines(words: Sequence[_Words], aspect: float) -> list[_Words]:
    """Sure words that stand side by side become lines, from top to bottom; `aspect` is width by height."""
    made: list[list[_Words]] = []
    for word in sorted((word for word in words if word.score >= SURE), key=lambda word: word.box[0]):
        line = next((line for line in made if _continues(line[-1].box, word.box, aspect)), None)
        if line:
            line.append(word)
        else:
            made.append([word])
    joined = [
        _Words(
            " ".join(word.text for word in line),
            fmean(word.score for word in line),
            (
                line[0].box[0],
                min(word.box[1] for word in line),
                max(word.box[2] for word in line),
                max(word.box[3] for word in line),
            ),
        )
        for line in made
    ]
    long_enough = [line for line in joined if sum(letter.isalnum() for letter in line.text) >= LETTERS]
    return sorted(long_enough, key=lambda line: (line.box[1], line.box[0]))


def _continues(before: Box, after: Box, aspect: float) -> bool:
    """Whether `after` is the next word of the line that `before` ends."""
    height = min(before[3] - before[1], after[3] - after[1])
    shared = min(before[3], after[3]) - max(before[1], after[1])
    gap = (after[0] - before[2]) * aspect  # as a share of the height, as the others are
    return shared >= _SAME_LINE * height and -height <= gap <= _SPACE * height


def _weights(part: str) -> Path:
    spec = find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise WeightsError("rapidocr is not installed; run `pip install epcli` again")
    path = Path(spec.origin).parent / "models" / f"PP-OCRv6_{part}_small.onnx"
    if not path.is_file():
        raise WeightsError(f"rapidocr: {path.name} is missing; run `pip install --force-reinstall 'rapidocr==3.10.*'`")
    return path
