"""Flags that commands share, and the flags of settings: what those say is written once, in config.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from epcli.config import DEFAULTS, SETTINGS, Resolved, resolve
from epcli.errors import UsageError

if TYPE_CHECKING:
    from epcli.session.form import Form

LOOK, ANSWER, TOKENS, MACHINE, OUTPUT = "What to look at", "Answer", "Tokens", "Machine", "Output"
PANELS = {"look": LOOK, "answer": ANSWER, "tokens": TOKENS, "machine": MACHINE}  # of the groups of settings


def option(help: str, metavar: str = "", panel: str = "", *names: str, **more: Any) -> Any:
    """A flag that is no setting. `names`: where it is not called as its parameter.

    The help page adds the default, or what `show_default` calls it.
    """
    return typer.Option(*names, help=help, metavar=metavar or None, rich_help_panel=panel or None, **more)


def argument(help: str, metavar: str, show_default: str | bool = True, **more: Any) -> Any:
    """A word of the command line that is no flag; `show_default` as of `option`."""
    return typer.Argument(help=help, metavar=metavar, show_default=show_default, **more)


def a_path(text: str) -> Path:
    """The `parser` of every path. An empty one, as of a shell variable that is not set, is not the working folder."""
    if not text:
        raise typer.BadParameter("the path is empty")
    return Path(text)


def path_option(*words: Any, **more: Any) -> Any:
    """An `option` whose value is a path."""
    return option(*words, parser=a_path, **more)


def path_argument(*words: Any, **more: Any) -> Any:
    """An `argument` that is a path."""
    return argument(*words, parser=a_path, **more)


MediaArgument = Annotated[Path, path_argument("Video, sound or picture file.", "MEDIA")]
# main() looks for --debug among the arguments itself: an error can come before any command has run.
DebugFlag = Annotated[bool, option("Show the traceback of an error, and what libraries warn about.", "", "", "--debug")]
JsonFlag = Annotated[bool, option("Print one JSON object and nothing else.", "", OUTPUT, "--json")]
StartFlag = Annotated[
    str | None, option("Begin at this time: 90, 1:30 or 0:01:30.", "TIME", LOOK, show_default="the beginning")
]
EndFlag = Annotated[str | None, option("Stop at this time: 90, 1:30 or 0:01:30.", "TIME", LOOK, show_default="the end")]
LanguageFlag = Annotated[
    str | None, option("Language that is spoken, as a code: en, de, zh.", "CODE", LOOK, show_default="detected")
]
SpeechFlag = Annotated[
    str,
    option(
        "What hears the words: tiny.en (English), base (99 languages, 150 MB), a folder with a Whisper checkpoint, "
        "or its name on the Hugging Face Hub.",
        "NAME|PATH",
        LOOK,
    ),
]
_ProfileFlag = Annotated[
    str | None,
    option(
        "Settings to start from: a name from `ep profiles list` or a YAML file.",
        "NAME|PATH",
        MACHINE,
        show_default="what fits this machine",
    ),
]


@dataclass(frozen=True)
class FormFlags:
    """What an answer must look like."""

    schema: Annotated[
        Path | None,
        path_option("Answer in JSON that meets the JSON Schema in this file.", "FILE", ANSWER),
    ] = None
    choices: Annotated[
        list[str] | None,
        option(
            "Answer with the likeliest of these, and tell how likely each is; may be given several times.",
            "A,B,...",
            ANSWER,
        ),
    ] = None

    def read(self) -> Form | None:
        """What the flags ask for; None for any text. Raises UsageError."""
        from epcli.session.form import read_form, split_choices

        if self.schema is not None and self.choices is not None:
            raise UsageError("--schema and --choices both say what the answer looks like; give one of them")
        return read_form(self.schema, None if self.choices is None else split_choices(self.choices))


@dataclass(frozen=True)
class Shown:
    """How one command shows a setting, where that is not as `Profile` says."""

    panel: str = ""
    meaning: str = ""
    only_off: bool = False  # --no-audio without --audio


def settings(*wanted: str, **shown: Shown) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the flags of settings, and --profile. It receives them resolved, in its parameter `resolved`.

    wanted: groups ("look", "answer", "tokens", "machine") and single settings, in the order of the help page.
    shown: settings that this command shows in its own way; they are added to `wanted`.

    The flags stand where `resolved` stands in the command's signature. A parameter whose type is a dataclass stands for
    the flags that are its fields.
    """
    names = list(dict.fromkeys(name for word in (*wanted, *shown) for name in _members(word)))

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        groups: dict[str, Any] = {each.name: each.annotation for each in own.values() if is_dataclass(each.annotation)}
        del groups["resolved"]  # its flags are those of the settings

        def run(**given: Any) -> None:
            resolved = resolve({name: given.pop(name) for name in names}, given.pop("profile"))
            made = {
                name: kind(**{each.name: given.pop(each.name) for each in fields(kind)})
                for name, kind in groups.items()
            }
            command(**given, **made, resolved=resolved)

        def flags(parameter: inspect.Parameter) -> Iterable[inspect.Parameter]:
            if parameter.name == "resolved":
                return _setting_flags(names, shown)
            return _fields(groups[parameter.name]) if parameter.name in groups else [parameter]

        parameters = [flag for parameter in own.values() for flag in flags(parameter)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Typer reads this
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _members(word: str) -> list[str]:
    """The settings of a group, or the one of that name."""
    return [name for name, setting in SETTINGS.items() if setting.group == word] or [word]


def _fields(kind: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return (_parameter(each.name, hints[each.name], each.default) for each in fields(kind))


def _setting_flags(names: list[str], shown: dict[str, Shown]) -> Iterator[inspect.Parameter]:
    profile = False
    for name in names:
        if SETTINGS[name].group == "machine" and not profile:
            yield _parameter("profile", _ProfileFlag)
            profile = True
        yield _parameter(name, _flag(name, shown.get(name, Shown())))
    if not profile:
        yield _parameter("profile", _ProfileFlag)


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flag(name: str, shown: Shown) -> Any:
    """It stays None unless given; config.py parses and checks the text."""
    setting, default = SETTINGS[name], DEFAULTS[name]
    flag, panel = name.replace("_", "-"), shown.panel or PANELS[setting.group]
    meaning, default = f"{shown.meaning or setting.meaning}.", setting.null if default is None else default
    if bool in setting.types:
        form = f" /--no-{flag}" if shown.only_off else f"--{flag}/--no-{flag}"
        return Annotated[bool | None, option(meaning, "", panel, form, show_default=not shown.only_off and "yes")]
    metavar = setting.metavar or "|".join(setting.choices)
    if not all(choice in metavar for choice in setting.choices):
        meaning += f" One of {', '.join(setting.choices)}."
    return Annotated[str | None, option(meaning, metavar, panel, f"--{flag}", show_default=str(default))]


def given(resolved: Resolved) -> list[str]:
    """The flags of settings that the command line holds, as "--keep"."""
    return [source for source in resolved.sources.values() if source.startswith("--")]


def seconds(flag: str, time: str | None) -> float | None:
    """A time given on the command line. Raises UsageError naming the flag."""
    if time is None:
        return None
    from epcli.text import parse_time

    try:
        return parse_time(time)
    except UsageError as error:
        raise UsageError(f"{flag}: {error}") from error


def time_range(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    """--start and --end in seconds. Raises UsageError for what is no time, or no range."""
    start_s, end_s = seconds("--start", start), seconds("--end", end)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise UsageError(f"--end {end} is not after {f'--start {start}' if start else 'the beginning'}")
    return start_s, end_s
