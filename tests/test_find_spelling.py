"""What a misspelt query was meant to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from epcli.find.index import Index
from epcli.find.spelling import respelled
from tests.find_samples import fill


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a bycicle", "a bicycle"),  # a name
        ("vehicel", "vehicle"),  # a kind
        ("termodynamics", "thermodynamics"),  # said
        ("somebody says 'statoin'", "somebody says 'station'"),
        ("the EXTI sign", "the EXIT sign"),
        ("thermodynamics", None),
        ("state", None),  # a word, though it is not in the index
        ("helicopter", None),  # like nothing that is known
        ("dgo", None),  # too short to tell
        ("qu\"er(y* OR x%_ mortgag' 駅駅駅駅", None),
    ],
)
def test_an_unknown_word_becomes_the_nearest_known_one(tmp_path: Path, text: str, expected: str | None) -> None:
    with Index(tmp_path / "index.sqlite") as index:
        assert respelled(index, text, {"sign", "state"}.__contains__) is None  # nothing is known yet
        fill(index, Path("/films"))
        assert respelled(index, text, {"sign", "state"}.__contains__) == expected
