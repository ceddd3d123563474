"""An inspection as pictures: the contact sheet of `ep inspect --png` and the frames of `ep inspect --video`."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from epcli.records import SAMPLE_RATE, Inspection, InspectionRun, Modality
from epcli.report import figures
from epcli.text import format_range, format_time, printable

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

BACK, CARD, INK, QUIET, DROPPED = (20, 20, 23), (29, 29, 34), (236, 236, 240), (162, 162, 173), (80, 80, 91)
COLOURS = {Modality.VIDEO: (108, 178, 255), Modality.AUDIO: (255, 180, 84)}
MARK = (255, 122, 168)
DIM = 0.3  # brightness left to a dropped cell, and to a picture of which nothing was kept
DASH = 6  # pixels of a dash, and between two
SHEET_WIDTH, MARGIN, GAP = 1200, 28, 10
MOST_LETTERS = 150  # of the line that tells what carried an answer
MOST_FRAMES = 48  # on the sheet; of more, at even steps
STRIP = 64  # height of the video's strip for the sound, pixels
FILM_PIXELS = 1280 * 720
FILM_FPS = 30.0


def contact_sheet(inspection: Inspection) -> bytes:
    """A PNG: for each run question, answer, numbers, every frame with what was dropped dimmed, and the sound."""
    from PIL import Image

    parts = [_heading(inspection), *(_run(inspection, run) for run in inspection.runs)]
    sheet = Image.new("RGB", (SHEET_WIDTH, sum(part.height for part in parts) + MARGIN), BACK)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    file = io.BytesIO()
    sheet.save(file, "png", optimize=True)
    return file.getvalue()


def dimmed(picture: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and its (rows, columns) bool cells -> the picture with dropped cells dimmed and grey."""
    import cv2

    picture, (height, width) = np.ascontiguousarray(picture), picture.shape[:2]
    bright = cv2.resize(kept.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.copyTo(picture, bright, cv2.convertScaleAbs(grey, alpha=DIM))


def named(
    picture: np.ndarray, sights: Sequence[figures.Sighted], kept: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """(H, W, 3) uint8 and what was observed in it, boxes in pixels of `size` -> the same with boxes and names drawn.

    What was kept has a solid box, what was dropped a dashed one; a name without a place stands in the upper left.
    """
    from PIL import Image, ImageDraw

    read = [figures.kept_of(each.places, kept) > 0 for each in sights]
    if sights and not any(read):
        picture = dimmed(picture, np.zeros((1, 1), bool))
    drawn = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(drawn), _font(max(11, round(drawn.height / 26)))
    scale, line = np.tile((drawn.width / size[0], drawn.height / size[1]), 2), font.size + 3
    top = 2
    for each, was_read in sorted(zip(sights, read, strict=True), key=lambda pair: pair[1]):  # what was kept on top
        colour = COLOURS[Modality.VIDEO] if was_read else QUIET
        corner = (4, top)
        if each.whole:
            top += line
        else:
            left, upper, right, lower = np.round(np.array(each.box) * scale).astype(int).tolist()
            _box(draw, (left, upper, min(right, drawn.width) - 1, min(lower, drawn.height) - 1), colour, solid=was_read)
            corner = (left + 3, upper + 2)
        if each.name:
            _name(draw, corner, _plain(each.name), font, colour)
    return np.asarray(drawn)


def _box(draw: ImageDraw, box: tuple[int, int, int, int], colour: tuple[int, int, int], *, solid: bool) -> None:
    left, top, right, bottom = box
    if solid:
        draw.rectangle((left, top, max(right, left), max(bottom, top)), outline=colour, width=2)
        return
    for x in range(left, right, 2 * DASH):
        for y in (top, bottom):
            draw.line([(x, y), (min(x + DASH, right), y)], fill=colour)
    for y in range(top, bottom, 2 * DASH):
        for x in (left, right):
            draw.line([(x, y), (x, min(y + DASH, bottom))], fill=colour)


def _name(draw: ImageDraw, corner: tuple[int, int], name: str, font: Any, colour: tuple[int, int, int]) -> None:
    """A name on a dark ground, so that it can be read on any picture."""
    left, top, right, bottom = draw.textbbox(corner, name, font=font)
    draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=BACK)
    draw.text(corner, name, colour, font)


def _as_read(inspection: Inspection, run: InspectionRun, index: int) -> Callable[[np.ndarray], np.ndarray]:
    """Marks in the picture of a sampled frame what was kept of it."""
    tokens = inspection.tokens
    if not tokens.observed:
        grid = figures.frame_grid(tokens, run.kept, index)
        return lambda picture: dimmed(picture, grid)
    sights = figures.sighted(tokens, index)
    return lambda picture: named(picture, sights, run.kept, tokens.size)


def film(inspection: Inspection, run: InspectionRun, frames: Iterable[np.ndarray], fps: float) -> Iterator[np.ndarray]:
    """Frames of the clip, `fps` a second -> the same marked with what was kept, above a strip for the sound."""
    start, end = inspection.range_s
    starts = figures.frame_starts(inspection)
    marks = [_as_read(inspection, run, index) for index in range(len(starts))]
    strip: np.ndarray | None = None
    for number, frame in enumerate(frames):
        height, width = frame.shape[:2]
        if strip is None:
            strip = _strip(inspection, run, width)
        time = start + number / fps
        if marks:
            frame = marks[max(0, int(np.searchsorted(starts, time + 1e-6, side="right")) - 1)](frame)
        whole = np.concatenate([frame, strip])
        at = min(width - 2, int((time - start) / max(end - start, 1e-6) * width))
        whole[height:, at : at + 2] = MARK
        yield whole


def film_size(inspection: Inspection) -> tuple[int, int]:
    """(width, height) of the film's picture: the displayed size, even, at most FILM_PIXELS; a bare strip for sound."""
    width, height = inspection.info.width, inspection.info.height
    if inspection.preview.frames is None or not width:
        return 640, 64
    factor = min(1.0, math.sqrt(FILM_PIXELS / (width * height)))
    return tuple(max(2, round(side * factor / 2) * 2) for side in (width, height))  # type: ignore[return-value]


def film_fps(inspection: Inspection) -> float:
    """The file's own rate, at most FILM_FPS."""
    return min(FILM_FPS, inspection.info.frame_rate or 25.0) if inspection.preview.frames is not None else 10.0


def blank(inspection: Inspection, size: tuple[int, int], fps: float) -> Iterator[np.ndarray]:
    """Empty frames for a clip without picture."""
    start, end = inspection.range_s
    frame = np.full((size[1], size[0], 3), CARD, np.uint8)
    for _ in range(max(1, round((end - start) * fps))):
        yield frame


def _strip(inspection: Inspection, run: InspectionRun, width: int, height: int = STRIP) -> np.ndarray:
    """(height, width, 3): shares kept over time and the waveform, coloured where the sound was read."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, height), CARD)
    draw = ImageDraw.Draw(picture)
    tokens, top = inspection.tokens, 2
    there = figures.modalities(tokens)
    tall = 14
    for modality in there:
        shares = figures.share_over_time(tokens, run.kept, modality, inspection.range_s, width)
        for x, share in enumerate(shares.tolist()):
            if share > 0:
                draw.line([(x, top + tall - max(1, round(share * tall))), (x, top + tall)], fill=COLOURS[modality])
        top += tall + 4
    wave = inspection.preview.wave
    if wave is not None and height - top > 8:
        _wave(draw, inspection, run, (0, top, width, height - 2))
    return np.asarray(picture)


def _wave(draw: ImageDraw, inspection: Inspection, run: InspectionRun, box: tuple[int, int, int, int]) -> None:
    wave, samples = inspection.preview.wave, inspection.preview.samples
    if wave is None or samples is None:
        return
    left, top, right, bottom = box
    width, (start, end) = right - left, inspection.range_s
    shares = figures.share_over_time(inspection.tokens, run.kept, Modality.AUDIO, inspection.range_s, width)
    wide = min(width, round(width * len(samples) / SAMPLE_RATE / max(end - start, 1e-6)))
    centre, scale = (top + bottom) / 2, (bottom - top) / 2 / max(float(np.abs(wave).max()), 1e-6)
    for x in range(wide):
        part = wave[x * len(wave) // wide : max((x + 1) * len(wave) // wide, x * len(wave) // wide + 1)]
        colour = COLOURS[Modality.AUDIO] if shares[x] > 0 else DROPPED
        high, low = centre - part[:, 1].max() * scale, centre - part[:, 0].min() * scale
        draw.line([(left + x, high), (left + x, max(low, high + 1))], fill=colour)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _canvas(height: int) -> tuple[Image, ImageDraw]:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SHEET_WIDTH, height), BACK)
    return picture, ImageDraw.Draw(picture)


def _heading(inspection: Inspection) -> Image:
    picture, draw = _canvas(102)
    (start, end), info = inspection.range_s, inspection.info
    draw.text((MARGIN, MARGIN - 6), _plain(info.path.name), INK, _font(22))
    when = [format_range(start, end)] if end > start else []
    facts = [*when, *(f"{each['kind']} {figures.stream_words(each)}" for each in figures.streams(inspection))]
    draw.text((MARGIN, MARGIN + 26), _plain(" · ".join(facts)), QUIET, _font(15))
    there = figures.modalities(inspection.tokens)
    marked = "names with solid boxes were read by the model, dashed ones" if inspection.tokens.observed else ""
    marked = marked or "bright cells were read by the model, dark ones"
    legend = [f"{marked} were dropped"] * (Modality.VIDEO in there)
    legend += ["coloured sound was read, grey sound was dropped"] * (inspection.preview.wave is not None)
    draw.text((MARGIN, MARGIN + 50), " · ".join(legend), QUIET, _font(15))
    return picture


def _run(inspection: Inspection, run: InspectionRun) -> Image:
    report, tokens = run.report, inspection.tokens
    answer = textwrap.wrap(_plain(report.answer or "(no answer)"), 90)[:3]
    counts = [
        (
            modality,
            f"{figures.WORDS[modality.name.lower()]} {report.tokens.of(modality.name.lower()).kept:,} of "
            f"{report.tokens.of(modality.name.lower()).total:,}",
        )
        for modality in figures.modalities(tokens)
    ]
    labels = [f"{moment.share:.0%} {moment.label}" for moment in (report.evidence.moments if report.evidence else ())]
    frames = _chosen_frames(inspection)
    across = min(8, max(4, math.ceil(math.sqrt(len(frames) * 1.6)))) if frames else 1
    wide = (SHEET_WIDTH - 2 * MARGIN - GAP * (across - 1)) // across
    width, height = figures.drawn_size(inspection.info)
    tall = round(wide * height / width)
    lines = math.ceil(len(frames) / across)
    text_height = 56 + 28 * len(answer) + 26 * bool(labels)
    has_time = inspection.range_s[1] > inspection.range_s[0]
    picture, draw = _canvas(text_height + lines * (tall + 26 + GAP) + (120 if has_time else 0) + 24)
    y = 10
    draw.text((MARGIN, y), _plain(report.question), QUIET, _font(17))
    y += 24
    for line in answer:
        draw.text((MARGIN, y), line, INK, _font(23))
        y += 28
    x = MARGIN
    for modality, words in counts:
        draw.text((x, y + 3), words, COLOURS[modality], _font(15))
        x += round(draw.textlength(words, _font(15))) + 24
    draw.text((x, y + 3), f"selector {report.selector}", QUIET, _font(15))
    y += 26
    if labels:
        told = textwrap.shorten(_plain("carried by " + " · ".join(labels)), MOST_LETTERS, placeholder=" ...")
        draw.text((MARGIN, y), told, MARK, _font(15))
        y += 26
    y = text_height
    for place, index in enumerate(frames):
        left, top = MARGIN + place % across * (wide + GAP), y + place // across * (tall + 26 + GAP)
        _thumb(picture, draw, inspection, run, index, (left, top, wide, tall))
    y += lines * (tall + 26 + GAP)
    if has_time:
        _sheet_timeline(picture, draw, inspection, run, y)
    return picture


def _chosen_frames(inspection: Inspection) -> list[int]:
    preview = inspection.preview
    count = 0 if preview.frames is None else len(preview.frames)
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, MOST_FRAMES)).tolist()})


def _thumb(
    picture: Image,
    draw: ImageDraw,
    inspection: Inspection,
    run: InspectionRun,
    index: int,
    box: tuple[int, int, int, int],
) -> None:
    from PIL import Image

    left, top, wide, tall = box
    frames, times = inspection.preview.frames, inspection.preview.times_s
    if frames is None or times is None:
        return
    small = np.asarray(Image.fromarray(frames[index]).resize((wide, tall), Image.Resampling.LANCZOS))
    picture.paste(Image.fromarray(_as_read(inspection, run, index)(small)), (left, top))
    here = (inspection.tokens.modality == Modality.VIDEO) & (inspection.tokens.cells[:, 0] == index)
    when = format_time(round(float(times[index]), 1)) + "   " if inspection.range_s[1] > inspection.range_s[0] else ""
    draw.text((left, top + tall + 4), f"{when}{int(run.kept[here].sum())} of {int(here.sum())}", QUIET, _font(14))


def _sheet_timeline(picture: Image, draw: ImageDraw, inspection: Inspection, run: InspectionRun, y: int) -> None:
    from PIL import Image

    width = SHEET_WIDTH - 2 * MARGIN
    picture.paste(Image.fromarray(_strip(inspection, run, width, 90)), (MARGIN, y))
    start, end = inspection.range_s
    steps: list[float] = [1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600]
    step = next((each for each in steps if (end - start) / each <= 16), 7200.0)
    time = math.ceil(start / step - 1e-9) * step
    while time < end:
        x = MARGIN + (time - start) / (end - start) * width
        draw.line([(x, y + 90), (x, y + 95)], fill=QUIET)
        draw.text((x + 3, y + 92), format_time(time), QUIET, _font(13))
        time += step


def _plain(text: str) -> str:
    """Text that can be drawn: on one line, and without what is no letter."""
    line = " ".join(text.split()).replace("–", "-")  # the font has no en dash
    return printable(line, "?")


def with_progress(frames: Iterable[np.ndarray], total: int, on_share: Callable[[float], None]) -> Iterator[np.ndarray]:
    """The same frames, telling the share done."""
    for number, frame in enumerate(frames, 1):
        yield frame
        on_share(min(1.0, number / max(total, 1)))
