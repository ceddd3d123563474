"""The report as JSON: what `ep ask --json` prints."""

from __future__ import annotations

import json

from epcli.records import Report
from epcli.text import visible_json


def to_json(report: Report) -> str:
    """One JSON object, indented. ValueError for a number that JSON has no word for (nan, infinity)."""
    return visible_json(json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
