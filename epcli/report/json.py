"""A report or a plan as JSON: what `ep ask --json` and `ep plan --json` print."""

from __future__ import annotations

import json

from epcli.records import Plan, Report
from epcli.text import visible_json


def to_json(report: Report | Plan) -> str:
    """One JSON object, indented. ValueError for a number that JSON has no word for (nan, infinity)."""
    return visible_json(json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
