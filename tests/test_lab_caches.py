"""The table that compares selectors by the likelihood of true answers."""

from __future__ import annotations

from typing import Any

import pytest

from epcli.lab.caches import difference, settings, table


def row(selector: str, file: str, loss: float, **more: Any) -> dict[str, Any]:
    keep = 1.0 if selector == "none" else 0.1
    return {
        "selector": selector,
        "keep": keep,
        "keep_cache": True,
        "media": file,
        "question": "?",
        "loss": loss,
        **more,
    }


def test_a_table_pairs_each_setting_with_all_tokens() -> None:
    rows = [row("none", file, loss, right=True) for file, loss in (("a", 1.0), ("b", 3.0))]
    rows += [
        row("seats", "a", 2.0, right=False),
        row("random", "b", 2.5, right=True),
        row("random", "a", 2.5, right=False),
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| `none` | 1 | 2 of 2 | 2.00 | - |"
    assert lines[3] == "| `seats` | 0.1 | 0 of 1 | 2.00 | +1.00 (+1.00 to +1.00) |", "on the questions that both have"
    assert lines[4] == "| `random` | 0.1 | 1 of 2 | 2.50 | +0.50 (-0.50 to +1.50) |"


def test_rows_without_answers_show_none() -> None:
    assert "| `none` | 1 | 1.00 | - |" in table([row("none", "a", 1.0)])


def test_questions_about_one_file_are_drawn_together() -> None:
    values = (0.0, 1.0) * 20
    narrow = difference([(str(place), value) for place, value in enumerate(values)])
    wide = difference([(str(value), value) for value in values])
    assert wide[0] == narrow[0] == pytest.approx(0.5)
    assert wide[2] - wide[1] == 1 > narrow[2] - narrow[1]


def test_random_is_in_every_comparison() -> None:
    for trained in (False, True):
        found = settings([0.2, 0.1], trained, published_cache=False)
        assert {("random", 0.2, True), ("random", 0.1, True)} <= set(found)
        assert any(name == "cs2" for name, *_ in found) == trained
