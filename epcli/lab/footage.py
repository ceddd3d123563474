"""Footage made of photographs: a camera that pans and zooms over them, words on screen, recordings; written as a film.

The result is a real media file whose truth is known: photographs from one second to the next, captions, sounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from epcli.errors import MediaError
from epcli.lab.sources import audio
from epcli.media.write import write
from epcli.records import SAMPLE_RATE

FPS = 10.0
_PLAIN = (228, 228, 222, 255)
_FADE_S = 0.03
_LEVEL = 0.08  # root mean square of a cue's louder parts, of full scale


@dataclass(frozen=True)
class Camera:
    """Where it looks: the centre as shares of the photograph's width and height, and how close; 1 is farthest."""

    x: float = 0.5
    y: float = 0.5
    zoom: float = 1.0


@dataclass(frozen=True)
class Shot:
    """A photograph, or black, from start_s to end_s. `whole`: with black bars rather than cut to the frame."""

    start_s: float
    end_s: float
    photo: Path | None
    camera: tuple[Camera, Camera] = (Camera(), Camera())  # at the start and at the end
    turn: int = 0  # degrees clockwise that set the photograph upright
    whole: bool = False


@dataclass(frozen=True)
class Caption:
    """Words on screen. `place`: top, middle or bottom. `style`: outline, band (on a dark strip) or board (a sign)."""

    start_s: float
    end_s: float
    text: str
    font: Path
    place: str = "bottom"
    style: str = "outline"
    colour: tuple[int, int, int] = (255, 255, 255)
    height: float = 0.11  # of the letters, as a share of the frame's height


@dataclass(frozen=True)
class Cue:
    """A recording from start_s to end_s at most; shorter ones are heard again until then if `again`."""

    start_s: float
    end_s: float
    file: Path
    from_s: float = 0.0  # where in the recording it begins
    gain: float = 1.0
    again: bool = False


@dataclass(frozen=True)
class Footage:
    """A whole film. `cues` None: no sound stream; empty: a silent one. Size is width and height in pixels."""

    duration_s: float
    size: tuple[int, int]
    shots: tuple[Shot, ...]
    captions: tuple[Caption, ...] = ()
    cues: tuple[Cue, ...] | None = None


def write_footage(footage: Footage, path: Path, *, fps: float = FPS, crf: int = 27) -> None:
    """Write `path` (H.264 and AAC). Raises MediaError for an unreadable source, EpError if ffmpeg fails."""
    write(path, frames(footage, fps), fps, sound(footage), crf=crf, audio_bitrate="48k")


def frames(footage: Footage, fps: float = FPS) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB, `fps` a second."""
    width, height = footage.size
    drawn = [(caption, _lettering(caption, footage.size)) for caption in footage.captions]
    for i in range(round(footage.duration_s * fps)):
        t = i / fps
        shot = next((s for s in footage.shots if s.start_s <= t < s.end_s), None)
        frame = np.zeros((height, width, 3), np.uint8) if shot is None else seen(shot, t, footage.size)
        for caption, (ink, cover) in drawn:
            if caption.start_s <= t < caption.end_s:
                frame = (frame * (1 - cover) + ink * cover).astype(np.uint8)
        yield frame


def seen(shot: Shot, t: float, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB: what the camera sees of the photograph at second t."""
    width, height = size
    if shot.photo is None:
        return np.zeros((height, width, 3), np.uint8)
    first, last = shot.camera
    picture = _photo(shot.photo, shot.turn, size, shot.whole, max(first.zoom, last.zoom))
    share = (t - shot.start_s) / max(shot.end_s - shot.start_s, 1e-6)
    share = share * share * (3 - 2 * share)  # a camera starts and stops softly
    x, y, zoom = (a + (b - a) * share for a, b in ((first.x, last.x), (first.y, last.y), (first.zoom, last.zoom)))
    rows, columns = picture.shape[:2]
    fit = (min if shot.whole else max)(width / columns, height / rows)
    scale = fit * zoom
    centre = [_inside(c, n, out / scale) for c, n, out in ((x, columns, width), (y, rows, height))]
    matrix = np.array([[scale, 0, width / 2 - scale * centre[0]], [0, scale, height / 2 - scale * centre[1]]])
    return cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR)


def _inside(share: float, length: int, shown: float) -> float:
    """The centre in pixels, such that the camera does not look past the edge unless it must."""
    if shown >= length:
        return length / 2
    return float(np.clip(share * length, shown / 2, length - shown / 2))


@lru_cache(maxsize=8)
def _photo(path: Path, turn: int, size: tuple[int, int], whole: bool, zoom: float) -> np.ndarray:
    """The photograph, upright, no larger than the closest look needs."""
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGBA").rotate(-turn, expand=True)
    except OSError as error:
        raise MediaError(f"{path.name}: is not a readable photograph ({error})") from error
    image = Image.new("RGBA", upright.size, _PLAIN)  # behind what was cut out
    image.alpha_composite(upright)
    fit = (min if whole else max)(size[0] / image.width, size[1] / image.height)
    if (scale := fit * zoom) < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return np.asarray(image.convert("RGB"))


def _lettering(caption: Caption, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Ink (H, W, 3) and its cover (H, W, 1), 0 to 1."""
    width, height = size
    points = round(caption.height * height * 1.4)
    while True:
        font = ImageFont.truetype(str(caption.font), points)
        box = font.getbbox(caption.text, stroke_width=max(1, points // 14))
        if box[2] - box[0] <= 0.92 * width or points <= 8:
            break
        points -= 1
    middle = {"top": 0.14, "middle": 0.5, "bottom": 0.86}[caption.place] * height
    left, top = (width - box[0] - box[2]) / 2, middle - (box[1] + box[3]) / 2
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    pad = points * 0.3
    around = (left + box[0] - pad, top + box[1] - pad, left + box[2] + pad, top + box[3] + pad)
    dark = sum(caption.colour) < 380
    if caption.style == "band":
        back = (240, 240, 240, 235) if dark else (0, 0, 0, 190)
        draw.rectangle((0, around[1], width, around[3]), fill=back)
    elif caption.style == "board":
        back = (245, 240, 215, 255) if dark else (20, 80, 55, 255)
        draw.rounded_rectangle(
            around, radius=pad, fill=back, outline=(*caption.colour, 255), width=max(2, points // 16)
        )
    edge = max(1, points // 14) if caption.style == "outline" else 0
    rim = (255, 255, 255, 255) if dark else (0, 0, 0, 255)
    draw.text((left, top), caption.text, font=font, fill=(*caption.colour, 255), stroke_width=edge, stroke_fill=rim)
    array = np.asarray(image, np.float32)
    return array[..., :3], array[..., 3:] / 255


def sound(footage: Footage) -> np.ndarray | None:
    """(S,) float32 mono at 16 kHz, or None if there is no sound stream."""
    if footage.cues is None:
        return None
    total = np.zeros(round(footage.duration_s * SAMPLE_RATE), np.float32)
    for cue in footage.cues:
        start, stop = (min(round(t * SAMPLE_RATE), len(total)) for t in (cue.start_s, cue.end_s))
        voice = _recording(cue.file)[round(cue.from_s * SAMPLE_RATE) :]
        if not len(voice):
            raise MediaError(f"{cue.file.name}: nothing to hear from second {cue.from_s:g}")
        if cue.again:
            voice = np.tile(voice, -(-(stop - start) // len(voice)))
        voice = voice[: stop - start].copy()
        loud = np.abs(voice) > 0.1 * np.abs(voice).max()
        level = float(np.sqrt((voice[loud] ** 2).mean())) if loud.any() else 1.0
        fade = min(round(_FADE_S * SAMPLE_RATE), len(voice) // 2)
        voice[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
        voice[len(voice) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
        total[start : start + len(voice)] += voice * (_LEVEL * cue.gain / level)
    return np.clip(total, -1, 1)


@lru_cache(maxsize=32)
def _recording(path: Path) -> np.ndarray:
    return audio.read(path)
