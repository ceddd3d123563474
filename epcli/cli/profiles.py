"""`ep profiles`: the shipped settings, and what a run would use and why."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from epcli import config
from epcli.cli.help import Command, Group
from epcli.cli.options import DebugFlag, argument
from epcli.errors import UsageError
from epcli.text import one_line, visible_json

app = typer.Typer(
    cls=Group, rich_markup_mode=None, help="Show settings and profiles, and where each setting comes from."
)


@app.command("list", cls=Command)
def list_(debug: DebugFlag = False) -> None:
    """List the shipped profiles; * marks the one that holds here."""
    here = config.resolve()
    names = config.profile_names()
    width = max(map(len, names))
    for name in names:
        mark = "*" if here.profile_path == config.find_profile(name) else " "
        typer.echo(f"{mark} {name:{width}}  {config.profile_summary(config.find_profile(name))}".rstrip())
    line = f"{here.profile_name} holds here: {here.why}"
    typer.echo("\n" + textwrap.fill(line, shutil.get_terminal_size().columns, break_on_hyphens=False))


@app.command(cls=Command)
def validate(
    name: Annotated[
        str | None,
        argument("A profile's name or a YAML file; without it, all settings that hold here.", "NAME|FILE"),
    ] = None,
    debug: DebugFlag = False,
) -> None:
    """Check settings: unknown keys, wrong types, values out of range.

    The first mistake is one line that names file, key and what is allowed, and the exit code is 2.
    """
    from epcli.models import catalog

    if name is None:
        here = config.resolve()
        _check_model(here.profile.model, here.sources["model"], catalog.find)
        typer.echo(f"ok: profile {here.profile_name} and what is set on top of it")
        return
    path, said = config.validate(name)
    if "model" in said:
        _check_model(said["model"], f"{path}: model", catalog.find)
    typer.echo(f"ok: {_short(path)}, {len(said)} setting{'s' * (len(said) != 1)}")


def _check_model(model: str, where: str, find: Callable[[str], object]) -> None:
    try:
        find(model)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


@app.command(cls=Command)
def show(
    name: Annotated[
        str | None,
        argument("A profile's name or a YAML file; without it, the one `ep ask` would use here.", "NAME"),
    ] = None,
    debug: DebugFlag = False,
) -> None:
    """Show the settings of a run, and where each comes from.

    The output can be a profile of your own: `ep profiles show > mine.yaml`, then `--profile mine.yaml`.
    """
    resolved = config.resolve(profile=name)
    typer.echo(f"# profile {resolved.profile_name}: {_short(resolved.profile_path)}")
    if name is None:
        typer.echo(f"# chosen because: {resolved.why}" if resolved.automatic else f"# named by {resolved.why}")
    lines = {key: f"{key}: {_yaml(value)}" for key, value in asdict(resolved.profile).items()}
    width = max(map(len, lines.values()))
    for key, line in lines.items():
        typer.echo(f"{line:{width}}  # {_source(resolved.sources[key], resolved)}")


def _source(source: str, resolved: config.Resolved) -> str:
    file = source.rpartition(": ")[0]
    if not file:
        return source
    return f"profile {resolved.profile_name}" if Path(file) == resolved.profile_path else _short(Path(file))


def _short(path: Path) -> str:
    return one_line(f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path))


def _yaml(value: Any) -> str:
    """One scalar as YAML on one line: a JSON scalar is one, and most words need no quotes."""
    import yaml

    plain = isinstance(value, str) and value.replace("-", "").replace(".", "").isalnum()
    return value if plain and yaml.safe_load(value) == value else visible_json(json.dumps(value, ensure_ascii=False))
