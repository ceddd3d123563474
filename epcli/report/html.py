"""An inspection as one self-contained page: `ep inspect --html`.

Nothing of the clip or the model is ever markup: all of it is JSON in a block that the browser does not run, with every
<, > and & escaped, and the script puts it on the page as text. The Content-Security-Policy lets only this page's own
script and style run, by their hashes, and no address be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from epcli import __version__
from epcli.config import DEFAULTS
from epcli.media.write import compressed_sound
from epcli.records import SAMPLE_RATE, Inspection, InspectionRun
from epcli.report import figures
from epcli.sieve.selectors import SELECTORS
from epcli.text import format_range, format_time

PAGE = Path(__file__).parent / "page"
FRAME_BYTES = 5_500_000  # of all frames together, at most
PAGE_BYTES = 14_500_000  # of the page: what sound and tokens take, frames do not get
FRAME_LADDER = ((480, 78), (400, 72), (320, 66), (256, 60), (192, 55), (144, 50))  # width in pixels, JPEG quality


def to_html(inspection: Inspection, *, media: bool = True) -> str:
    """The page. `media`: with pictures, sound, waveform and spectrogram. Raises MediaError if sound cannot be coded."""
    css, js = ((PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            "media-src data:",
            f"script-src '{_hash(js)}'",
            f"style-src '{_hash(css)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    parts = {
        "csp": policy,
        "title": html.escape(_text(inspection.info.path.name)),
        "css": css,
        "plain": _plain(inspection),
        "data": embed(page_data(inspection, media=media)),
        "js": js,
    }
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], page)


def embed(data: Any) -> str:
    """JSON that can stand inside <script>: no letter in it can end the block or begin a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII only
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(text: str) -> str:
    """Text that UTF-8 can hold: a file's name may be any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def page_data(inspection: Inspection, *, media: bool = True) -> dict[str, Any]:
    """What the page's script is given; arrays are base64 of their little-endian bytes."""
    info, tokens, preview = inspection.info, inspection.tokens, inspection.preview
    start, end = inspection.range_s
    width, height = figures.drawn_size(info)
    samples = preview.samples if media else None
    mel = preview.mel if media else None
    data: dict[str, Any] = {
        "name": _text(info.path.name),
        "facts": [
            *([f"{format_range(start, end)} of {format_time(info.duration_s)}"] if end > start else []),
            *(f"{stream['kind']} {figures.stream_words(stream)}" for stream in figures.streams(inspection)),
        ],
        "range": [start, end],
        "aspect": width / height if info.has_video else None,
        "grid": {"rows": tokens.grid[0], "columns": tokens.grid[1]},
        "tokens": {
            "modality": _pack(tokens.modality, "u1"),
            "start": _pack(tokens.spans_s[:, 0], "<f4"),
            "end": _pack(tokens.spans_s[:, 1], "<f4"),
            "frame": _pack(tokens.cells[:, 0], "<i2"),
            "row": _pack(tokens.cells[:, 1], "<i2"),
            "column": _pack(tokens.cells[:, 2], "<i2"),
        },
        "names_pictures": tokens.observed,
        "observed": [
            {
                "name": _text(each.name),
                "modality": int(each.modality),
                "when": each.when,
                "tokens": list(each.places),
            }
            for each in figures.observed(tokens)
        ],
        "sound": None if samples is None else _uri(*compressed_sound(samples)),
        "sound_end": start if samples is None else start + len(samples) / SAMPLE_RATE,
        "wave": None if samples is None or preview.wave is None else _pack(_level(preview.wave), "i1"),
        "mel": None if mel is None else _uri(_png(mel), "image/png"),
        "planned": inspection.plan.peak_bytes,
        "runs": [
            _run(inspection, run, name)
            for run, name in zip(inspection.runs, figures.run_names(inspection.runs), strict=True)
        ],
        "made": f"Made by ep {__version__}. This page holds everything it shows and loads nothing.",
    }
    room = (PAGE_BYTES - len(json.dumps(data))) * 3 // 4  # three bytes are four letters of base64
    return {**data, "frames": _frames(inspection, min(FRAME_BYTES, room) if media else None)}


def _run(inspection: Inspection, run: InspectionRun, name: str) -> dict[str, Any]:
    report = run.report
    evidence = report.evidence
    return {
        "name": _text(name),
        "question": _text(report.question),
        "answer": _text(report.answer),
        "selector": report.selector,
        "per_modality": report.selector == "cs2-per-modality",
        "chosen_by": " ".join(
            [SELECTORS[report.selector].shown, *([f"{line}."] if (line := figures.leaving(run)) else [])]
        ),
        "kept": _pack(run.kept, "u1"),
        "depth": _depth(run),
        "scores": None if run.scores is None else _pack(run.scores, "<f4"),
        "no_scores": _no_scores(report.selector),
        "evidence": _pack(run.evidence, "<f4"),
        "moments": None if evidence is None else [asdict(moment) for moment in evidence.moments],
        "rule": None if evidence is None else evidence.rule,
        "text": asdict(report.tokens.text),
        "timings": list(asdict(report.timings_s).items()),
        "memory": report.memory.peak_device_bytes or report.memory.peak_rss_bytes,
        "warnings": [_text(warning) for warning in report.warnings],
        "settings": [
            *([["profile", _text(Path(report.profile.name).name)]] if report.profile else []),
            *([key, "–" if value is None else _text(str(value))] for key, value in _settings(run).items()),
        ],
        "command": _text(command(inspection, run)),
    }


def _no_scores(selector: str) -> str:
    if selector == "none":
        return "Everything was read, so there is nothing to choose; ask again with --keep 0.1."
    return f"The selector {selector} gives no scores, so other shares cannot be worked out here."


def _settings(run: InspectionRun) -> dict[str, Any]:
    """Those of the report, without folders of the machine that it was made on: the page may be mailed."""
    shown = {key: value for key, value in asdict(run.report.settings).items() if not key.startswith("cache")}
    return {**shown, "model": Path(str(shown.get("model", run.report.model))).name}


def command(inspection: Inspection, run: InspectionRun) -> str:
    """The command line that makes the run again, in the folder of the file.

    It starts from the default profile, so that another machine's hardware does not choose other settings.
    """
    what = [_argument(inspection.info.path.name), run.report.question]
    words = ["--profile", "default"]
    settings = {**_settings(run), "selector": run.report.selector}
    for key, value in settings.items():
        if key in DEFAULTS and value != DEFAULTS[key]:
            flag = "--" + key.replace("_", "-")
            words += [f"--no-{key}"] if value is False else [flag] if value is True else [flag, str(value)]
    start, end = inspection.range_s
    if start > 0:
        words += ["--start", f"{start:g}"]
    if end and end < inspection.info.duration_s - 0.05:
        words += ["--end", f"{end:g}"]
    dashed = run.report.question.startswith("-")
    return shlex.join(["ep", "inspect", *([*words, "--", *what] if dashed else [*what, *words])])


def _argument(name: str) -> str:
    return f"./{name}" if name.startswith("-") else name


def _depth(run: InspectionRun) -> str | None:
    """How deep each token came, 255 for the deepest; None where none leave inside the language model."""
    if run.layers is None or not run.report.tokens.leaves_inside:
        return None
    return _pack(run.layers.astype(np.int32) * 255 // max(int(run.layers.max()), 1), "u1")


def _pack(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(kind)).tobytes()).decode()


def _level(wave: np.ndarray) -> np.ndarray:
    """(P, 2) int8 of which the loudest is 127."""
    return np.round(wave / max(float(np.abs(wave).max()), 1e-6) * 127)


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _png(mel: np.ndarray) -> bytes:
    """(bands, P) in [0, 1] -> a picture of opacity only, high notes on top: the page gives it its colour."""
    from PIL import Image

    alpha = np.round(mel[::-1] ** 1.5 * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.stack([np.zeros_like(alpha), alpha], -1), "LA").save(file, "png", optimize=True)
    return file.getvalue()


def _frames(inspection: Inspection, room: int | None) -> list[dict[str, Any]]:
    """Each frame's time, and its picture if there are so many bytes of `room` for all of them."""
    tokens, preview = inspection.tokens, inspection.preview
    if preview.frames is None or preview.times_s is None:
        return []
    start = figures.frame_starts(inspection)
    width, height = figures.drawn_size(inspection.info)
    aspect = width / height
    coded = None if room is None else _coded(preview.frames, aspect, room)
    return [
        {
            "time": float(time),
            "start": float(start[index]),
            "sights": [_sight(each, tokens.size) for each in figures.sighted(tokens, index)],
            "src": None if coded is None else _uri(coded(index), "image/jpeg"),
        }
        for index, time in enumerate(preview.times_s)
    ]


def _sight(each: figures.Sighted, size: tuple[int, int]) -> dict[str, Any]:
    """Something observed in a frame: its name, its tokens, and its box as shares of width and height."""
    shares = np.array(each.box) / np.tile(size, 2)
    box = None if each.whole else shares.round(4).tolist()
    return {"name": _text(each.name), "box": box, "tokens": list(each.places)}


def _coded(frames: np.ndarray, aspect: float, room: int) -> Callable[[int], bytes]:
    """JPEG of a frame by number, in its displayed shape, at the largest size at which all frames take `room` bytes."""
    from PIL import Image

    def jpeg(index: int, width: int, quality: int) -> bytes:
        file = io.BytesIO()
        size = (width, max(1, round(width / aspect)))
        Image.fromarray(frames[index]).resize(size, Image.Resampling.LANCZOS).save(file, "jpeg", quality=quality)
        return file.getvalue()

    some = range(0, len(frames), max(1, len(frames) // 8))
    for width, quality in FRAME_LADDER:
        mean = sum(len(jpeg(index, width, quality)) for index in some) / len(some)
        if mean * len(frames) <= room:
            break
    return lambda index: jpeg(index, width, quality)


def _plain(inspection: Inspection) -> str:
    """The page for a reader without scripts."""
    rows = []
    for run in inspection.runs:
        report = run.report
        counts = ", ".join(
            f"{figures.WORDS[m.name.lower()]}: {report.tokens.of(m.name.lower()).kept:,} of "
            f"{report.tokens.of(m.name.lower()).total:,} pieces read"
            for m in figures.modalities(inspection.tokens)
        )
        moments = "".join(
            f"<li>{moment.share:.0%} {html.escape(moment.label)}</li>"
            for moment in (report.evidence.moments if report.evidence else ())
        )
        rows.append(
            f"<h2>{html.escape(_text(report.question))}</h2><p>{html.escape(_text(report.answer))}</p>"
            f"<p>{counts}</p><ul>{moments}</ul>"
        )
    return f"<h1>{html.escape(_text(inspection.info.path.name))}</h1>{''.join(rows)}"
