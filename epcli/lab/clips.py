"""The sample clips of docs/media: `python -m epcli.lab.clips LIBRARY docs/media`.

Written by hand: sounds of the source library, letters of an emoji font as pictures, photographs from tests/data/photos;
docs/media/README.md says whose they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

from epcli.lab.footage import Camera, Caption, Cue, Footage, Shot, write_footage
from epcli.lab.scenes import Library
from epcli.lab.sources import fetch

SIZE = (640, 360)
PHOTOS = Path(__file__).parents[2] / "tests" / "data" / "photos"
PACKAGES = ("gcompris", "ovos", "dejavu", "noto")
EMOJI_PX = 109  # the only size in which Noto Color Emoji holds its bitmaps
EMOJI = {
    "piano": "\U0001f3b9", "violin": "\U0001f3bb", "dog": "\U0001f415", "cow": "\U0001f404", "tree": "\U0001f333",
    "cat": "\U0001f408", "telephone": "\U0000260e", "car": "\U0001f697", "elephant": "\U0001f418",
}  # fmt: skip
PLACES = {"left": 0.25, "middle": 0.5, "right": 0.75}  # of an emoji's centre, as a share of the width
COLOURS = {
    "blue": (50, 85, 205), "green": (50, 155, 70), "white": (244, 244, 244), "yellow": (235, 210, 60),
    "purple": (130, 60, 165),
}  # fmt: skip
TOLD = "please check the number and dial again"


class _Drawer:
    """Draws pictures into a folder."""

    def __init__(self, font: Path, folder: Path) -> None:
        self.font = ImageFont.truetype(str(font), EMOJI_PX, layout_engine=ImageFont.Layout.BASIC)
        self.folder = folder

    def __call__(self, colour: str, share: float = 0.62, **where: str) -> Path:
        """A plain background with an emoji at each place (`left="dog"`), `share` of the height high."""
        picture = Image.new("RGB", SIZE, COLOURS[colour])
        for place, name in where.items():
            emoji = self._emoji(name, round(share * SIZE[1]))
            corner = round(PLACES[place] * SIZE[0] - emoji.width / 2), (SIZE[1] - emoji.height) // 2
            picture.paste(emoji, corner, emoji)
        path = self.folder / f"{'-'.join([colour, *where.values()])}.png"
        picture.save(path)
        return path

    def _emoji(self, name: str, side: int) -> Image.Image:
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((8, 8), EMOJI[name], font=self.font, embedded_color=True)
        cut = canvas.crop(canvas.getbbox())
        scale = side / max(cut.size)
        return cut.resize((round(cut.width * scale), round(cut.height * scale)), Image.Resampling.LANCZOS)


def drawn(library: Path, font: Path, folder: Path) -> dict[str, Footage]:
    """Each drawn clip's file name and script; the pictures go into `folder`."""
    lib = Library(library, "train")
    files = {t.name: t.sounds for t in lib.things}

    def sound(name: str, source: str) -> Path:
        return next(p for p in files[name] if source in p.parts)

    draw = _Drawer(font, folder)
    duet, farm = draw("blue", left="piano", right="violin"), draw("green", left="cow", right="dog")
    tree, cat = draw("green", left="tree"), draw("green", 0.6, right="cat")
    street, elephant = draw("yellow", left="car", right="tree"), draw("purple", 0.8, middle="elephant")
    line = library / next(s["file"] for s in lib.speech if s["text"] == TOLD)
    bark = sound("dog", "gcompris")
    return {
        "duet.mp4": Footage(
            9.0, SIZE, (Shot(0, 9, duet),), (),
            (Cue(0, 4.5, sound("piano", "fluid")), Cue(4.5, 9, sound("violin", "fluid"))),
        ),
        "farm.mp4": Footage(
            8.0, SIZE, (Shot(0, 8, farm),), (), (Cue(0, 4, bark, again=True), Cue(4, 8, sound("cow", "gcompris"))),
        ),
        "speech.mp4": Footage(
            6.0, SIZE, (Shot(0, 6, draw("white", 0.7, middle="telephone")),), (), (Cue(0.4, 5.6, line),)
        ),
        # forty seconds in which hardly anything happens: a cat at 0:14, a dog's bark at 0:31
        "moment.mp4": Footage(
            40.0, SIZE, (Shot(0, 14, tree), Shot(14, 16, cat), Shot(16, 40, tree)), (), (Cue(31, 33.5, bark),)
        ),
        "silent.mp4": Footage(6.0, SIZE, (Shot(0, 3, street), Shot(3, 6, elephant))),
    }  # fmt: skip


def photographed(folders: Mapping[str, Path]) -> Footage:
    """photos.mp4: a sheep that bleats, then four musicians and a fiddle. `folders`: of the fetched packages."""
    bleat = next(folders["ovos"].resolve().rglob("sheep.mp3"))
    fiddle = next(folders["gcompris"].resolve().rglob("explore_world_music/resource/music/ireland.ogg"))
    font = next(folders["dejavu"].resolve().rglob("DejaVuSans-Bold.ttf"))
    return Footage(
        10.0,
        SIZE,
        (
            Shot(0, 4, PHOTOS / "sheep.jpg", (Camera(), Camera(0.5, 0.45, 1.2))),
            Shot(4, 10, PHOTOS / "musicians.jpg", (Camera(), Camera(0.5, 0.5, 1.02)), whole=True),
        ),
        (Caption(4.5, 9.5, "LIVE TONIGHT", font, "top", "band"),),
        (Cue(0.4, 3.8, bleat, again=True), Cue(4, 10, fiddle, 4.0)),
    )


def main(
    library: Annotated[Path, typer.Argument(help="Folder written by `python -m epcli.lab.sources`.")],
    out: Path,
    packages: Annotated[
        Path | None, typer.Option(help="Folder of fetched packages (default: packages beside the library).")
    ] = None,
) -> None:
    wanted = [p for p in (*fetch.PACKAGES, *fetch.FOOTAGE_PACKAGES) if p.key in PACKAGES]
    folders = fetch.fetch(packages or library.resolve().parent / "packages", wanted)
    emoji = next(folders["noto"].resolve().rglob("NotoColorEmoji.ttf"))
    with tempfile.TemporaryDirectory() as folder:
        clips = {**drawn(library, emoji, Path(folder)), "photos.mp4": photographed(folders)}
        for name, footage in clips.items():
            write_footage(footage, out / name, crf=24)
            typer.echo(f"{name}: {(out / name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    typer.run(main)
