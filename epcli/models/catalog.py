"""The families that are installed, and their models by name. No torch at import, and no family by name."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from epcli.errors import EpError, UsageError, WeightsError

if TYPE_CHECKING:
    import torch

    from epcli.models.family import AVModel, Card, Family, Progress, Shape, Source

GROUP = "epcli.models"  # of entry points; each names a `Family` object
OURS = "epcli.models."


@cache
def families() -> tuple[Family, ...]:
    """The families of epcli, those with the smallest model first, and then what other packages bring."""
    points = {point.value: point for point in entry_points(group=GROUP)}
    if not any(value.startswith(OURS) for value in points):  # epcli runs from a folder that was never installed
        for file in Path(__file__).parent.glob("*/family.py"):
            value = f"{OURS}{file.parent.name}.family:FAMILY"
            points[value] = EntryPoint(file.parent.name, value, GROUP)
    ours = [_load(point) for value, point in points.items() if value.startswith(OURS)]
    others = [_load(point) for value, point in sorted(points.items()) if not value.startswith(OURS)]
    ours.sort(key=lambda family: min(card.parameters for card in family.cards()) if family else 0)
    return tuple(family for family in (*ours, *others) if family is not None)


def _load(point: EntryPoint) -> Family | None:
    """None, and a line on standard error, for a package that is broken: the other families work without it."""
    try:
        return point.load()
    except Exception as error:  # whatever the code of another package raises
        print(f"ep: the models of {point.value} cannot be used: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def cards() -> tuple[Card, ...]:
    """The models that have a name."""
    return tuple(card for family in families() for card in family.cards())


def find(text: str) -> Source:
    """The weights that a `--model` value names: a known name, a folder or a file.

    Folders and files are only identified here; `check_present` looks whether they are whole. Raises UsageError for a
    name that is not known, WeightsError for a file or folder that no family reads.
    """
    refused: EpError | None = None
    for family in families():
        try:
            if (source := family.find(text)) is not None:
                return source
        except EpError as error:  # another family may read it
            refused = refused or error
    if refused is not None:
        raise refused
    names = ", ".join(card.name for card in cards())
    also = "".join(f"; or give {family.accepts}" for family in families() if family.accepts)
    raise UsageError(f"no model named {text!r}; `ep models list` lists them: {names}{also}")


def shape(name: str) -> Shape:
    """Sizes by the name of their model, for `ep bench --shape`. Raises UsageError."""
    found = {each: sizes for family in families() for each, sizes in family.shapes().items()}
    if name not in found:
        raise UsageError(f"no shape named {name!r}; there are: {', '.join(found)}")
    return found[name]


def check_present(name: str) -> None:
    """Raises WeightsError for a model that must be pulled first or is not whole, before any file is decoded.

    Reads no weights and imports no torch. UsageError as `find`.
    """
    source = find(name)
    source.family.check_present(source)


def load(
    name: str, device: torch.device, dtype: torch.dtype, quantize: str = "none", on_progress: Progress = None
) -> AVModel:
    """The model on its device, its weights fetched if they are not cached. Raises UsageError or WeightsError.

    `on_progress`: called with the share of a large model's weights that was read, 0 to 1.
    """
    source = find(name)
    return source.family.load(source, device, dtype, quantize, on_progress)


def location(name: str) -> Path:
    """Where a model's weights are, or will be."""
    source = find(name)
    return source.path or source.family.location(source)


def is_here(name: str) -> bool:
    """Whether a model's files are on this machine, whole or not: told in no time. Raises as `find`."""
    source = find(name)
    return source.family.status(source) == "ready"


def status(name: str) -> str:
    """ "ready" if every part is here and whole, else what is wrong: "partly downloaded", "not downloaded", or a line.

    Raises as `find`.
    """
    if not is_here(name):
        source = find(name)
        return source.family.status(source)
    try:
        check_present(name)
    except WeightsError as error:
        return f"cannot be used: {error}"
    return "ready"


def pull(name: str) -> None:
    """Fetch and convert a model's weights ahead of time, checking what is there. Raises WeightsError or UsageError."""
    source = _not_a_path(name)
    source.family.pull(source)


def remove(name: str) -> int:
    """Delete a model's weights; returns the bytes freed. Raises UsageError."""
    source = _not_a_path(name)
    return source.family.remove(source)


def _not_a_path(name: str) -> Source:
    """Files that the user brought are neither fetched nor deleted here."""
    source = find(name)
    if source.path is not None:
        raise UsageError(f"{name}: is a model of your own; only those of `ep models list` are fetched and deleted here")
    return source
