"""Contact sheets: every picture of a style, small, with its name, to find wrong ones by eye."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

_CELL, _LINE, _COLUMNS = 72, 11, 24
_BACKGROUND = (205, 215, 225)


def write_all(out: Path) -> list[Path]:
    """contact_sheet-<style>.png for each folder of pictures."""
    return [write(folder, out / f"contact_sheet-{folder.name}.png") for folder in sorted((out / "pictures").iterdir())]


def write(folder: Path, target: Path) -> Path:
    """One sheet of the PNGs in `folder`, in the order of their names."""
    files = sorted(folder.glob("*.png"))
    rows = -(-len(files) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _CELL, max(1, rows) * (_CELL + _LINE)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, file in enumerate(files):
        x, y = i % _COLUMNS * _CELL, i // _COLUMNS * (_CELL + _LINE)
        with Image.open(file) as opened:
            picture = opened.convert("RGBA")
        picture.thumbnail((_CELL - 4, _CELL - 4))
        sheet.paste(picture, (x + 2, y + 2), picture)
        draw.text((x + 1, y + _CELL - 2), file.stem[:12], fill=(0, 0, 0))
    partial = target.with_suffix(".part")
    sheet.save(partial, "PNG")
    partial.replace(target)
    return target
