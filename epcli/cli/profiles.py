"""`ep profiles`: the shipped settings, and what a run would use and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from epcli import config
from epcli.cli.help import Command, Group

app = typer.Typer(cls=Group, rich_markup_mode=None, help="Settings: what there is, and where each comes from.")


@app.command("list", cls=Command)
def list_() -> None:
    """List the shipped profiles."""
    from epcli.models import registry

    names = config.profile_names()
    width = max(map(len, names))
    for name in names:
        typer.echo(f"{name:{width}}  {config.profile_summary(config.find_profile(name))}".rstrip())
    missing = [name for name in names if config.resolve(profile=name).profile.model not in registry.MODELS]
    if missing:
        typer.echo(f"\n{', '.join(missing)}: for models that this version of ep does not have", err=True)


@app.command(cls=Command)
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A profile's name or a YAML file; without it, the one `ep ask` would use here.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show the settings of a run, and where each comes from.

    The output can be a profile of your own: `ep profiles show > mine.yaml`, then `--profile mine.yaml`.
    """
    resolved = config.resolve(profile=name)
    typer.echo(f"# profile {resolved.profile_name}: {_short(resolved.profile_path)}")
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
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _yaml(value: Any) -> str:
    """One scalar as YAML on one line: a JSON scalar is one, and most words need no quotes."""
    import yaml

    plain = isinstance(value, str) and value.replace("-", "").replace(".", "").isalnum()
    return value if plain and yaml.safe_load(value) == value else json.dumps(value, ensure_ascii=False)
