"""Help pages in plain text, options grouped under headings.

Typer's own grouped pages are drawn with rich, whose import takes longer than the rest of `ep --help` together.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from typer.core import TyperCommand, TyperGroup

_ARGUMENTS, _OPTIONS, _COMMANDS = "Arguments", "Options", "Commands"
_WIDEST_NAME = 28  # a longer name gets a line of its own


class _Sections:
    """Mixed into a command: its parameters under the headings they name, whatever names none under "Options", last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            heading = getattr(parameter, "rich_help_panel", None) or (
                _ARGUMENTS if _is_argument(parameter) else _OPTIONS
            )
            sections.setdefault(heading, []).append((_names(parameter), _help(parameter)))
        if isinstance(self, TyperGroup):
            commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
            shown = [(name, _first_line(each)) for name, each in commands.items() if each and not each.hidden]
            sections = {_COMMANDS: shown, **sections}
        sections[_OPTIONS] = sections.pop(_OPTIONS)
        width = min(_WIDEST_NAME, max(len(name) for rows in sections.values() for name, _ in rows))
        for heading, rows in sections.items():
            with formatter.section(_bold(heading)):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=width)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [each for each in self.get_params(ctx) if _is_argument(each)]  # type: ignore[attr-defined]
        pieces = [_names(argument) if argument.required else f"[{_names(argument)}]" for argument in arguments]
        return ["[OPTIONS]", *pieces, *["COMMAND [ARGS]..."] * isinstance(self, TyperGroup)]


class Command(_Sections, TyperCommand):
    """A command whose help page has sections."""


class Group(_Sections, TyperGroup):
    """A command group whose help page has sections."""


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _names(parameter: Any) -> str:
    """MEDIA; "-q, --quiet", "--audio/--no-audio", "--no-audio" or "--fps NUMBER"."""
    if _is_argument(parameter):
        return str(parameter.metavar)
    on, off = ", ".join(sorted(parameter.opts, key=len)), parameter.secondary_opts
    names = "/".join([*([on] if on else []), *off])
    return f"{names} {parameter.metavar}" if parameter.metavar else names


def _help(parameter: Any) -> str:
    """What a flag does, and its default."""
    text, shown, default = parameter.help or "", parameter.show_default, parameter.default
    if not isinstance(shown, str):
        plain = not shown or default is None or default is False or callable(default)
        shown = "" if plain else "yes" if default is True else f"{default:g}" if isinstance(default, float) else default
    return f"{text.rstrip('.')} (default: {shown})." if shown != "" else text


def _first_line(command: Any) -> str:
    return str((command.short_help or command.help or "").strip().partition("\n")[0])


def _bold(text: str) -> str:
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[1m{text}\x1b[0m"
