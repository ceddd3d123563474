"""A run's curves as one SVG file, drawn from its log: no plotting library."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, GAP = 760, 190, 56, 34, 66
COLOURS = ("#2f6db5", "#c8553d", "#3a8f5c", "#8a5cb8", "#b58a2f", "#555b66")
Series = list[tuple[float, float]]


def draw(log: Path, out: Path) -> None:
    """Loss and accuracy over steps, kept shares by modality, held-out accuracy by keep ratio; written at once."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    panels: list[tuple[str, dict[str, Series], bool]] = [
        ("training loss", {"loss": _series(rows, "loss"), "answer": _series(rows, "answer")}, False),
        (
            "training: exact answers, and shares kept",
            {
                "exact": _series(rows, "exact"),
                "kept of video": _series(rows, "kept_video"),
                "kept of audio": _series(rows, "kept_audio"),
                "evidence in the best tenth": _series(rows, "evidence_in_tenth"),
            },
            True,
        ),
    ]
    measured = [row for row in rows if "held_out" in row]
    if measured:
        ways = measured[-1]["held_out"]
        held = {
            ("all tokens" if way == "none" else f"keep {way}"): [
                (row["step"], row["held_out"][way]["exact"]) for row in measured if way in row["held_out"]
            ]
            for way in ways
        }
        panels.append(("held out: exact answers", held, True))
    panels = [(title, {name: s for name, s in lines.items() if s}, share) for title, lines, share in panels]
    panels = [panel for panel in panels if panel[1]]
    height = TOP + len(panels) * (HEIGHT + GAP)
    body = "".join(
        _panel(title, lines, share, TOP + i * (HEIGHT + GAP)) for i, (title, lines, share) in enumerate(panels)
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#333">'
        f'<rect width="100%" height="100%" fill="#fff"/>{body}</svg>\n'
    )
    temporary = out.with_suffix(".part")
    temporary.write_text(svg, encoding="utf-8")
    os.replace(temporary, out)


def _series(rows: Sequence[dict], key: str) -> Series:
    return [(row["step"], row[key]) for row in rows if key in row]


def _panel(title: str, lines: dict[str, Series], share: bool, top: float) -> str:
    """One chart: axes with three marks each, a line a series, a legend above."""
    points = [point for line in lines.values() for point in line]
    last = max(x for x, _ in points) or 1
    high = 1.0 if share else max(max(y for _, y in points), 1e-6)
    wide = WIDTH - LEFT - 20

    def at(x: float, y: float) -> str:
        return f"{LEFT + wide * x / last:.1f},{top + HEIGHT - HEIGHT * min(y, high) / high:.1f}"

    out = [f'<text x="{LEFT}" y="{top - 16}" font-weight="600">{escape(title)}</text>']
    for part in (0, 0.5, 1):
        y = top + HEIGHT * (1 - part)
        out.append(f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        label = f"{high * part:.0%}" if share else f"{high * part:.2f}"
        out.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
        out.append(
            f'<text x="{LEFT + wide * part}" y="{top + HEIGHT + 16}" text-anchor="middle">{round(last * part)}</text>'
        )
    legend = LEFT
    for colour, (name, line) in zip(COLOURS * 3, lines.items(), strict=False):
        path = " ".join(at(x, y) for x, y in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(line) < 12:
            out += [
                f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="2.5" fill="{colour}"/>' for p in path.split()
            ]
        out.append(f'<rect x="{legend}" y="{top + HEIGHT + 26}" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{legend + 14}" y="{top + HEIGHT + 35}">{escape(name)}</text>')
        legend += 34 + 7 * len(name)
    return "".join(out)
