"""`ep models`: which models there are, and their weights on this machine."""

from __future__ import annotations

import shutil
import textwrap
from typing import Annotated

import typer

from epcli.cli.help import Command, Group
from epcli.cli.options import DebugFlag, argument
from epcli.text import one_line, size

app = typer.Typer(cls=Group, rich_markup_mode=None, help="List, download and remove models.")

ModelName = Annotated[str, argument("A name of `ep models list`.", "NAME")]


@app.command("list", cls=Command)
@app.command("ls", cls=Command, hidden=True)
def list_(debug: DebugFlag = False) -> None:
    """List the models and whether their weights are here."""
    from epcli.models import catalog

    for card in catalog.cards():
        status = catalog.status(card.name)
        download = "" if status == "ready" else f" ({size(card.download_bytes)})"
        typer.echo(f"{card.name}: {status}{download}")
        for text in (card.summary, f"needs {card.needs}; licence {card.licence}"):
            typer.echo(
                textwrap.fill(text, shutil.get_terminal_size().columns, initial_indent="  ", subsequent_indent="    ")
            )


@app.command(cls=Command)
def show(name: ModelName, debug: DebugFlag = False) -> None:
    """Show what a model is, needs and may be used for."""
    from epcli.models import catalog

    card = catalog.find(name).card
    facts = {
        "name": card.name,
        "what": card.summary,
        "licence": card.licence,
        "parameters": f"{card.parameters / 1e6:,.0f} million",
        "needs": card.needs,
        "download": size(card.download_bytes),
        "status": catalog.status(name),
        "folder": str(catalog.location(name)),
    }
    width = max(map(len, facts))
    for key, value in facts.items():
        typer.echo(one_line(f"{key:{width}}  {value}"))


@app.command(cls=Command)
def pull(name: ModelName, debug: DebugFlag = False) -> None:
    """Download a model's weights now, so that `ep ask` works without a network later."""
    from epcli.models import catalog

    catalog.find(name)
    catalog.pull(name)
    catalog.check_present(name)  # what arrived may still be no whole model
    typer.echo(one_line(f"{name} is ready: {catalog.location(name)}"), err=True)


@app.command(cls=Command)
def rm(name: ModelName, debug: DebugFlag = False) -> None:
    """Delete a model's downloaded weights; `ep models pull` brings them back."""
    from epcli.models import catalog

    catalog.find(name)
    freed = catalog.remove(name)
    typer.echo(f"{name}: {size(freed)} freed" if freed else f"{name}: nothing was downloaded", err=True)
