"""The catalog: what each thing is called, what it may be mistaken for, and which of its files are held out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from epcli.errors import EpError

SCHEMA = 1
_DATA = Path(__file__).parent / "data"


@lru_cache(maxsize=8)
def table(name: str) -> dict[str, Any]:
    """A data file of this package; every value is text."""
    loaded: dict[str, Any] = yaml.load((_DATA / f"{name}.yaml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    return loaded


@dataclass
class CatalogThing:
    """One nameable thing and its files, relative to the library's folder."""

    name: str
    group: str
    sounds: dict[str, list[str]] = field(default_factory=lambda: {"train": [], "heldout": []})

    def record(self, ambiguous_with: Sequence[str]) -> dict[str, Any]:
        """What the catalog says of it."""
        return {
            "name": self.name,
            "plural": plural(self.name),
            "article": article(self.name),
            "group": self.group,
            "ambiguous_with": sorted(ambiguous_with),
            "sounds": {split: sorted(files) for split, files in self.sounds.items()},
        }


def things() -> dict[str, CatalogThing]:
    """Every thing of things.yaml by name, without files yet."""
    return {name: CatalogThing(name, group) for group, names in table("things").items() for name in names}


def slug(name: str) -> str:
    """A name as part of a file name: lower case, ASCII, words joined by hyphens."""
    plain = name.lower().replace("ñ", "n")
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in plain).split())


# --- words ------------------------------------------------------------------------------------------------------------


def article(name: str) -> str:
    """ "a", "an", or "" for what is not counted (rain, popcorn) or always many (scissors)."""
    names = table("names")
    if name in names["uncounted"] or name in names["always_plural"]:
        return ""
    if name in names["article"]:
        return str(names["article"][name])
    return "an" if name[0].lower() in "aeiou" else "a"


def plural(name: str) -> str:
    """Several of it: "mice", "fire trucks"; the name itself where it is not counted or already means several."""
    names = table("names")
    if name in names["uncounted"] or name in names["always_plural"]:
        return name
    if name in names["plural"]:
        return str(names["plural"][name])
    head, space, last = name.rpartition(" ")
    if space and last in names["plural"]:
        return f"{head} {names['plural'][last]}"
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def ambiguous(known: Iterable[str]) -> dict[str, set[str]]:
    """For each name, those it could be taken for by ear: members of one line of names.yaml's `ambiguous`."""
    names = set(known)
    found: dict[str, set[str]] = {name: set() for name in names}
    for line in table("names")["ambiguous"]:
        group = {part.strip() for part in line.split(",")} & names
        for name in group:
            found[name] |= group - {name}
    return found


# --- writing ----------------------------------------------------------------------------------------------------------


def write(
    folder: Path, all_things: Mapping[str, CatalogThing], licences: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Check and write catalog.json, whole or not at all. Things without any file are left out."""
    kept = {n: t for n, t in all_things.items() if any(t.sounds.values())}
    mistaken = ambiguous(kept)
    entries = [thing.record(sorted(mistaken[name])) for name, thing in sorted(kept.items())]
    catalog = {"schema": SCHEMA, "things": entries, "sources": list(licences)}
    check(catalog, folder)
    partial = folder / "catalog.json.part"
    partial.write_text(json.dumps(catalog, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / "catalog.json")
    return catalog


def check(catalog: Mapping[str, Any], folder: Path | None = None) -> None:
    """Raises EpError unless names are unique, each file is in one place and split only, and (with `folder`) there."""
    seen: dict[str, str] = {}
    names = [entry["name"] for entry in catalog["things"]]
    if len(set(names)) != len(names):
        raise EpError(f"catalog: {next(n for n in names if names.count(n) > 1)!r} stands in it twice")
    for entry in catalog["things"]:
        if missing := {"name", "plural", "article", "group", "ambiguous_with", "sounds"} - entry.keys():
            raise EpError(f"catalog: {entry['name']!r} lacks {min(missing)}")
        for split in ("train", "heldout"):
            for path in entry["sounds"][split]:
                here = f"{entry['name']} ({split})"
                if path in seen:
                    raise EpError(f"catalog: {path} belongs both to {seen[path]} and to {here}")
                if folder is not None and not (folder / path).is_file():
                    raise EpError(f"catalog: {path} of {here} does not exist")
                seen[path] = here
