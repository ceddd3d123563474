"""An inspection as JSON: what `ep inspect --json` prints."""

from __future__ import annotations

import json
from typing import Any

from epcli.records import Inspection, InspectionRun, MediaTokens, Modality
from epcli.report.figures import kept_of, observed, streams
from epcli.text import visible_json

SCHEMA = 1


def to_json(inspection: Inspection) -> str:
    """One JSON object, indented but for the tokens, one a line."""
    body = to_dict(inspection)
    rows = [run.pop("kept_tokens") for run in body["runs"]]
    for number, run in enumerate(body["runs"]):
        run["kept_tokens"] = f"\0{number}"
    text = json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False)
    for number, tokens in enumerate(rows):
        lines = ",\n".join(" " * 8 + json.dumps(token, ensure_ascii=False, allow_nan=False) for token in tokens)
        text = text.replace(f'"\\u0000{number}"', f"[\n{lines}\n      ]" if tokens else "[]", 1)
    return visible_json(text)


def to_dict(inspection: Inspection) -> dict[str, Any]:
    """JSON types, `schema` first. Times are seconds of the file, boxes pixels of the displayed picture."""
    info, tokens = inspection.info, inspection.tokens
    return {
        "schema": SCHEMA,
        "media": {
            "path": str(info.path),
            "container": info.container,
            "duration_s": round(info.duration_s, 3),
            "range_s": [round(time, 3) for time in inspection.range_s],
            "width": info.width,
            "height": info.height,
            "streams": streams(inspection),
        },
        "grid": {
            "rows": tokens.grid[0],
            "columns": tokens.grid[1],
            "frame_times_s": []
            if inspection.preview.times_s is None
            else [round(time, 3) for time in inspection.preview.times_s.tolist()],
        },
        "plan": inspection.plan.to_dict(),
        "runs": [
            {"report": run.report.to_dict(), "observed": _observed(tokens, run), "kept_tokens": _tokens(tokens, run)}
            for run in inspection.runs
        ],
    }


def _observed(tokens: MediaTokens, run: InspectionRun) -> list[dict[str, Any]]:
    """What has a name: of how many tokens, and how many of them were kept."""
    return [
        {
            "name": each.name,
            "modality": each.modality.name.lower(),
            "spans_s": [[round(time, 3) for time in span] for span in each.spans_s],
            "tokens": len(each.places),
            "kept": kept_of(each.places, run.kept),
        }
        for each in observed(tokens)
    ]


def _tokens(tokens: MediaTokens, run: InspectionRun) -> list[dict[str, Any]]:
    """The kept tokens in reading order; `index` counts all sound and picture tokens, `layers` those it passed."""
    rows = []
    for index in run.kept.nonzero()[0].tolist():
        picture = tokens.modality[index] == Modality.VIDEO
        frame, row, column = tokens.cells[index].tolist()
        rows.append(
            {
                "index": index,
                "modality": Modality(tokens.modality[index]).name.lower(),
                "start_s": round(float(tokens.spans_s[index, 0]), 3),
                "end_s": round(float(tokens.spans_s[index, 1]), 3),
                "cell": {"frame": frame, "row": row, "column": column} if picture else None,
                "box": tokens.boxes[index].tolist() if picture else None,
                "label": (tokens.labels[index] or None) if tokens.labels else None,
                "score": None if run.scores is None else float(run.scores[index]),
                "evidence": float(run.evidence[index]),
                "layers": None if run.layers is None else int(run.layers[index]),
            }
        )
    return rows
