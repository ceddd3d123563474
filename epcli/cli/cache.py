"""`ep cache`: what was looked at and is stored, and how to be rid of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epcli.cli.help import Command, Group
from epcli.cli.options import DebugFlag, option, path_argument
from epcli.config import resolve
from epcli.errors import UsageError
from epcli.text import ago, format_range, one_line, parse_age, parse_size, size

if TYPE_CHECKING:
    from epcli.session.cache import Entry, FeatureCache

app = typer.Typer(cls=Group, rich_markup_mode=None, help="List and remove stored features of files.", name="cache")

JsonFlag = Annotated[bool, option("Print JSON and nothing else.", "", "", "--json")]
DryRun = Annotated[bool, option("Only tell what would be removed.", "", "", "--dry-run")]


@app.command(cls=Command)
def ls(json: JsonFlag = False, debug: DebugFlag = False) -> None:
    """List what is stored, the latest used first."""
    entries = _store().entries()
    if json:
        _print_json([entry.to_dict() for entry in entries])
        return

    rows = [("SIZE", "USED", "MODEL", "RANGE", "FILE")]
    for entry in entries:
        start, end = entry.range_s
        part = format_range(start, end) if end > start else "picture"
        rows.append((size(entry.size_bytes), ago(entry.used), entry.model, part, one_line(Path(entry.media).name)))
    if len(rows) > 1:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for first, *others in rows:
            cells = [
                first.rjust(widths[0]),
                *(text.ljust(width) for text, width in zip(others, widths[1:], strict=True)),
            ]
            typer.echo("  ".join(cells).rstrip())
    typer.echo(f"{_count(entries)} in {_store().folder}", err=True)


@app.command(cls=Command)
def info(json: JsonFlag = False, debug: DebugFlag = False) -> None:
    """Show where features are stored, how much there is and how much there may be."""
    resolved = resolve()
    store = _store()
    entries = store.entries()
    used = sum(entry.size_bytes for entry in entries)
    place = next(folder for folder in (store.folder, *store.folder.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if json:
        facts: dict[str, Any] = {
            "folder": str(store.folder),
            "on": resolved.profile.cache,
            "entries": len(entries),
            "files": len({entry.media for entry in entries}),
            "used_bytes": used,
            "limit_bytes": store.limit_bytes,
            "free_bytes": free,
            "oldest_use": min((entry.used for entry in entries), default=None),
        }
        _print_json(facts)
        return
    switch = "on" if resolved.profile.cache else f"off, by {resolved.sources['cache']}"
    lines = {
        "folder": str(store.folder),
        "state": switch,
        "stored": f"{_count(entries)} of {len({entry.media for entry in entries})} files",
        "limit": size(store.limit_bytes),
        "free": f"{size(free)} on that disk",
        "least used": ago(min(entry.used for entry in entries)) if entries else "nothing yet",
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        typer.echo(f"{name:{width}}  {value}")


@app.command(cls=Command)
def prune(
    at_most: Annotated[
        str | None, option("Shrink to 500MB or 2GB.", "SIZE", "", "--size", show_default="the limit")
    ] = None,
    older_than: Annotated[str | None, option("Remove what was not used for 12h, 30d or 8w.", "AGE")] = None,
    dry_run: DryRun = False,
    debug: DebugFlag = False,
) -> None:
    """Remove what has not been used for long, damaged entries, and what killed processes left."""
    limit = None if at_most is None else _parsed("--size", parse_size, at_most)
    unused = None if older_than is None else _parsed("--older-than", parse_age, older_than)
    _tell(_store().prune(limit, unused, dry_run=dry_run), dry_run)


@app.command(cls=Command)
def clear(
    media: Annotated[
        list[Path] | None,
        path_argument("Only what was made of these files.", "MEDIA..."),
    ] = None,
    dry_run: DryRun = False,
    debug: DebugFlag = False,
) -> None:
    """Remove everything that is stored, or all that is stored of some files."""
    store = _store()
    if not media:
        _tell(store.prune(chosen=lambda entry: True, dry_run=dry_run), dry_run)
        return
    from epcli import content

    paths = {str(path.absolute()) for path in media}
    quick = {content.quick(path) for path in media if path.is_file()}  # copies under other names too

    def of_them(entry: Entry) -> bool:
        return entry.media in paths or entry.file.name[:16] in quick

    gone = store.prune(limit_bytes=2**63, chosen=of_them, dry_run=dry_run)
    if not gone:
        raise UsageError(f"nothing is stored of {', '.join(one_line(path.name) for path in media)}; see `ep cache ls`")
    _tell(gone, dry_run)


def _store() -> FeatureCache:
    """The folder that the settings name, whether or not they use it."""
    from dataclasses import replace

    from epcli.session.cache import FeatureCache

    store = FeatureCache.of(replace(resolve().profile, cache=True))
    assert store is not None
    return store


def _parsed(flag: str, parse: Any, text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _tell(gone: list[Entry], dry_run: bool) -> None:
    for entry in gone:
        typer.echo(f"{one_line(Path(entry.media).name)}  {size(entry.size_bytes)}")
    typer.echo(f"{_count(gone)} {'would be ' if dry_run else ''}removed", err=True)


def _count(entries: list[Entry]) -> str:
    total = size(sum(entry.size_bytes for entry in entries))
    return f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {total}"


def _print_json(body: Any) -> None:
    from json import dumps

    typer.echo(dumps(body, indent=2))
