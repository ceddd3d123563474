"""The sample clips of docs/media: `python -m epcli.lab.clips LIBRARY docs/media`.

Scripts written by hand, pictures and sounds from the source library; docs/media/README.md says whose they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epcli.lab.film import write_film
from epcli.lab.scenes import Heard, Library, Script, Seen, Thing, View

SIZE = (640, 360)


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


def main(
    library: Annotated[Path, typer.Argument(help="Folder written by `python -m epcli.lab.sources`.")], out: Path
) -> None:
    for name, script in scripts(library).items():
        write_film(script, out / name)
        typer.echo(f"{name}: {(out / name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    typer.run(main)
