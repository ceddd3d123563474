"""The sample clips of docs/media: `python -m epcli.lab.clips LIBRARY docs/media`.

Scripts written by hand, pictures and sounds from the source library, photographs from tests/data/photos;
docs/media/README.md says whose they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epcli.lab.film import write_film
from epcli.lab.footage import Camera, Caption, Cue, Footage, Shot, write_footage
from epcli.lab.scenes import Heard, Library, Script, Seen, Thing, View
from epcli.lab.sources import fetch

SIZE = (640, 360)
PHOTOS = Path(__file__).parents[2] / "tests" / "data" / "photos"


class _Shelf:
    """Pictures and sounds by name, with a file each that is chosen for good."""

    def __init__(self, folder: Path) -> None:
        self.lib = Library(folder, "train")
        self.things = {t.name: t for t in self.lib.things}

    def seen(self, name: str, place: str, style: str, size: float = 0.62) -> Seen:
        thing = self.things[name]
        picture = next(p for p in thing.pictures if style in p.parts)
        return Seen(thing, place, picture, size, False, None)

    def sound(self, name: str, source: str, number: int = 0) -> tuple[Thing, Path]:
        thing = self.things[name]
        return thing, [p for p in thing.sounds if source in p.parts][number]


def scripts(folder: Path) -> dict[str, Script]:
    """Each clip's file name and script."""
    shelf = _Shelf(folder)
    piano, piano_sound = shelf.sound("piano", "fluid")
    violin, violin_sound = shelf.sound("violin", "fluid")
    dog, dog_sound = shelf.sound("dog", "gcompris")
    cow, cow_sound = shelf.sound("cow", "gcompris")
    line = next(s for s in shelf.lib.speech if s["text"] == "please check the number and dial again")
    both = (shelf.seen("piano", "on the left", "noto"), shelf.seen("violin", "on the right", "noto"))
    tree, cat = shelf.seen("tree", "on the left", "noto"), shelf.seen("cat", "on the right", "noto", 0.6)
    farm = (shelf.seen("cow", "on the left", "noto"), shelf.seen("dog", "on the right", "noto"))
    return {
        "duet.mp4": Script(
            9.0,
            (View(0, 9, "blue", both),),
            (Heard(0, 4.5, (piano,), (piano_sound,)), Heard(4.5, 9, (violin,), (violin_sound,))),
            SIZE,
            1,
        ),
        "farm.mp4": Script(
            8.0,
            (View(0, 8, "green", farm),),
            (Heard(0, 4, (dog,), (dog_sound,)), Heard(4, 8, (cow,), (cow_sound,))),
            SIZE,
            2,
        ),
        "speech.mp4": Script(
            6.0,
            (View(0, 6, "white", (shelf.seen("telephone", "in the middle", "noto", 0.7),)),),
            (Heard(0.4, 5.6, (), (), line["text"], folder / line["file"]),),
            SIZE,
            3,
        ),
        "moment.mp4": Script(  # forty seconds in which hardly anything happens: a cat at 0:14, a dog's bark at 0:31
            40.0,
            (
                View(0, 14, "green", (tree,)),
                View(14, 16, "green", (cat,)),
                View(16, 40, "green", (tree,)),
            ),
            (Heard(0, 31), Heard(31, 33.5, (dog,), (dog_sound,)), Heard(33.5, 40)),
            SIZE,
            5,
        ),
        "silent.mp4": Script(
            6.0,
            (
                View(
                    0,
                    3,
                    "yellow",
                    (shelf.seen("car", "on the left", "noto"), shelf.seen("tree", "on the right", "noto")),
                ),
                View(3, 6, "purple", (shelf.seen("elephant", "in the middle", "noto", 0.8),)),
            ),
            (),
            SIZE,
            4,
        ),
    }


def photographed(packages: Path) -> Footage:
    """photos.mp4: a sheep that bleats, then four musicians and a fiddle."""
    wanted = [p for p in (*fetch.PACKAGES, *fetch.FOOTAGE_PACKAGES) if p.key in ("gcompris", "ovos", "dejavu")]
    folders = fetch.fetch(packages, wanted)
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
    for name, script in scripts(library).items():
        write_film(script, out / name)
        typer.echo(f"{name}: {(out / name).stat().st_size // 1000} kB")
    write_footage(photographed(packages or library.resolve().parent / "packages"), out / "photos.mp4", crf=24)
    typer.echo(f"photos.mp4: {(out / 'photos.mp4').stat().st_size // 1000} kB")


if __name__ == "__main__":
    typer.run(main)
