"""Pictures: from vector, bitmap or colour-font glyph to a trimmed RGBA square-ish PNG, and a hash that finds copies."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from epcli.errors import EpError, MediaError
from epcli.lab.sources.catalog import table
from epcli.lab.sources.fetch import run

SIDE = 256  # pixels, longest side of every picture
_VISIBLE = 8  # alpha above which a pixel belongs to the object
_NOTO_PX = 109  # the only size in which Noto Color Emoji holds its bitmaps
_CELLS = 12
SKIN_TONES = ("1F3FB", "1F3FD", "1F3FF")  # light, medium, dark


@dataclass(frozen=True)
class Picture:
    """One picture to be made: what it shows, in which style, from a file or (`glyph`) from a letter of a font."""

    thing: str
    style: str
    id: str
    source: Path
    glyph: str = ""

    @property
    def path(self) -> str:
        """Where it goes, relative to the library's folder."""
        return f"pictures/{self.style}/{self.id}.png"


def slug(name: str) -> str:
    """A name as part of a file name: lower case, ASCII, words joined by hyphens."""
    plain = name.lower().replace("ñ", "n")
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in plain).split())


# --- where the emoji sets keep a picture ------------------------------------------------------------------------------


def emoji_pictures(folders: Mapping[str, Path], things: Mapping[str, Iterable[str]]) -> Iterator[Picture]:
    """Every picture the emoji sets have of `things` (name -> code points such as "1F415-200D-1F9BA")."""
    openmoji = folders["openmoji"] / "package"
    table = json.loads((openmoji / "data" / "openmoji.json").read_text())
    toned = {e["skintone_base_hexcode"] for e in table if e["skintone"]}
    words = {_bare(e["hexcode"]): e["annotation"] for e in table}
    noto = next(folders["noto"].rglob("NotoColorEmoji.ttf"))
    glyphs = _ligatures(noto)
    for name, codes in things.items():
        for base in codes:
            tones = [base, *(_toned(base, tone) for tone in SKIN_TONES)] if base in toned else [base]
            for code in tones:
                id_ = f"{slug(name)}-{code.lower()}"
                yield from _vector(name, id_, code, folders)
                glyph = "".join(chr(int(c, 16)) for c in code.split("-"))
                if _bare(code) in glyphs:
                    yield Picture(name, "noto", id_, noto, glyph)
            words_of = slug(words.get(_bare(base), "").replace("’", ""))
            for style in ("modern", "flat"):
                icons = folders["fluent"] / "package" / "icons" / style
                for tone in ("", "-default", "-light", "-dark"):
                    if words_of and (icon := icons / f"{words_of}{tone}.svg").exists():
                        yield Picture(name, f"fluent-{style}", f"{slug(name)}-{base.lower()}{tone}", icon)


_LISTED = {  # picture package -> folder that the paths of pictures.yaml start from
    "openclipart": "usr/share/openclipart/png",
    "pysiogame": "usr/share/games/pysiogame/res/images/art4apps",
    "scratch": "usr/share/scratch/Media/Costumes",
    "gcompris": "usr/share/gcompris-qt/rcc",
    "tuxpaint": "usr/share/tuxpaint/stamps",
}
_SUFFIXES = (".svg", ".png", ".webp", ".jpg", ".gif")


def listed_pictures(folders: Mapping[str, Path]) -> Iterator[Picture]:
    """Every picture of pictures.yaml. Raises EpError if a package lacks one."""
    for style, listed in table("pictures").items():
        root = folders[style] / _LISTED[style]
        for name, paths in listed.items():
            for path in paths.split():
                found = (root / (path + suffix) for suffix in ("", *_SUFFIXES))
                if (file := next((f for f in found if f.is_file()), None)) is None:
                    raise EpError(f"pictures.yaml: {style} has no {path} for {name!r}")
                digest = hashlib.sha256(path.encode()).hexdigest()[:4]  # the same file name lies in several folders
                yield Picture(name, style, f"{slug(name)}-{slug(file.stem)}-{digest}", file)


def _vector(name: str, id_: str, code: str, folders: Mapping[str, Path]) -> Iterator[Picture]:
    """The sets whose files are called by code point; they disagree on whether to write FE0F (emoji presentation)."""
    roots = {
        "openmoji": (folders["openmoji"] / "package" / "color" / "svg", str.upper, ".svg"),
        "twemoji": (folders["twemoji"] / "package", str.lower, ".svg"),
        "emojione": (folders["emojione"] / "package" / "assets" / "svg", str.lower, ".svg"),
        "fluent-3d": (folders["fluent-3d"] / "package" / "assets", str.lower, ".webp"),
    }
    for style, (root, case, suffix) in roots.items():
        for spelling in dict.fromkeys((code, _bare(code), f"{code}-FE0F")):
            if (file := root / f"{case(spelling)}{suffix}").exists():
                yield Picture(name, style, id_, file)
                break


def _bare(code: str) -> str:
    return code.upper().replace("-FE0F", "")


def _toned(code: str, tone: str) -> str:
    first, *rest = code.split("-")
    return "-".join([first, tone, *(c for c in rest if c != "FE0F" or rest.index(c) > 0)])


def _ligatures(font: Path) -> set[str]:
    """Which emoji the font draws as one glyph: single letters (others need a shaping engine, which we do without)."""
    from fontTools.ttLib import TTFont

    with TTFont(font, lazy=True) as opened:
        return {f"{letter:04X}" for letter in opened.getBestCmap()}


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw(picture: Picture) -> Image.Image:
    """The picture, RGBA, trimmed to what is visible, longest side SIDE. Raises MediaError if nothing is to be seen."""
    if picture.glyph:
        raw = _glyph(picture.source, picture.glyph)
    elif picture.source.suffix in (".svg", ".svgz"):
        size = ["--keep-aspect-ratio", "--width", str(2 * SIDE), "--height", str(2 * SIDE)]
        raw = Image.open(io.BytesIO(run(["rsvg-convert", *size, str(picture.source)])))
    else:
        try:
            raw = Image.open(picture.source)
            raw.load()
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise MediaError(f"{picture.source.name}: not a readable picture ({error})") from error
    return trim(cut_out(raw.convert("RGBA")), picture.source.name)


def cut_out(image: Image.Image) -> Image.Image:
    """An opaque picture on plain white loses the white that touches its border; others stay as they are."""
    pixels = np.array(image)
    if (pixels[..., 3] < 250).mean() > 0.01:
        return image
    white: np.ndarray = np.all(pixels[..., :3] > 245, axis=-1)
    border = np.concatenate([white[0], white[-1], white[:, 0], white[:, -1]])
    if border.mean() < 0.9:
        return image
    marked = Image.fromarray((white * 255).astype(np.uint8), "L")
    framed = Image.new("L", (image.width + 2, image.height + 2), 255)
    framed.paste(marked, (1, 1))
    ImageDraw.floodfill(framed, (0, 0), 128)
    pixels[..., 3] = np.where(np.array(framed)[1:-1, 1:-1] == 128, 0, 255)
    return Image.fromarray(pixels, "RGBA")


def trim(image: Image.Image, name: str = "picture") -> Image.Image:
    """Cut to the visible part and scaled so that the longest side is SIDE pixels."""
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > _VISIBLE)).getbbox()
    if not box or min(box[2] - box[0], box[3] - box[1]) < 4:
        raise MediaError(f"{name}: nothing to be seen in it")
    cut = image.crop(box)
    scale = SIDE / max(cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    # Colours are weighted by alpha, so that no dark fringe comes in from invisible pixels.
    return cut.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


@lru_cache(maxsize=2)
def _font(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), _NOTO_PX, layout_engine=ImageFont.Layout.BASIC)


def _glyph(font: Path, glyph: str) -> Image.Image:
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((8, 8), glyph, font=_font(font), embedded_color=True)
    return canvas


# --- telling copies apart ---------------------------------------------------------------------------------------------


def fingerprint(image: Image.Image) -> np.ndarray:
    """(577,) float32: the picture on white and its alpha in 12 x 12 cells, each 0 to 1; last log(width / height)."""
    white = Image.new("RGBA", image.size, "white")
    small = [
        np.asarray(part.resize((_CELLS, _CELLS), Image.Resampling.BOX), np.float32).reshape(_CELLS, _CELLS, -1) / 255
        for part in (Image.alpha_composite(white, image).convert("RGB"), image.getchannel("A"))
    ]
    return np.append(np.concatenate(small, -1).ravel(), np.log(image.width / image.height)).astype(np.float32)


def distance(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    """(N,): how much a fingerprint differs from each of (N, 577), itself or mirrored. Copies measure below 0.04."""
    cells = one[:-1].reshape(_CELLS, _CELLS, 4)
    straight, mirrored = (np.abs(many[:, :-1] - turned.ravel()).mean(1) for turned in (cells, cells[:, ::-1]))
    return np.minimum(straight, mirrored) + 0.2 * np.abs(many[:, -1] - one[-1])
