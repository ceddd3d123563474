"""The pages that the program itself can write. Run this file to rewrite them: python tests/test_docs.py"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from epcli import config, errors
from epcli.cli import app
from epcli.lab import memory
from epcli.sieve.selectors import SELECTORS

ROOT = Path(__file__).parent.parent


def commands() -> list[str]:
    """Every command of the program, the program itself first."""
    found = [""]
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", {})
        found += [name, *(f"{name} {each}" for each, found_below in below.items() if not found_below.hidden)]
    return found


def help_page(command: str) -> str:
    """What `ep COMMAND --help` prints on a terminal of 80 columns."""
    run = subprocess.run(
        [sys.executable, "-c", "from epcli.cli import main; main()", *command.split(), "--help"],
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in run.stdout.strip().splitlines())


def command_pages() -> str:
    return "\n\n".join(f"## {f'ep {name}'.strip()}\n\n```text\n{help_page(name)}\n```" for name in commands())


def _yaml(key: str) -> str:
    """A default as it stands in a settings file."""
    return json.dumps(config.DEFAULTS[key]).strip('"')


def settings_table() -> str:
    rows = ["| setting | default | accepts | meaning |", "|---|---|---|---|"]
    for key, limits in config.SETTINGS.items():
        default = f"null: {limits.null}" if config.DEFAULTS[key] is None else f"`{_yaml(key)}`"
        rows.append(f"| `{key}` | {default} | {limits.describe()} | {limits.meaning} |")
    return "\n".join(rows)


def profiles_table() -> str:
    rows = [f"| `{name}` | {config.profile_summary(config.find_profile(name))} |" for name in config.profile_names()]
    return "\n".join(["| profile | what it is for |", "|---|---|", *rows])


def default_profile() -> str:
    lines = ["# Every setting with its default: ep-smol, on any machine", "#"]
    lines += ["# Copy what you want to change into a file ep.yaml in your folder.", ""]
    for key, limits in config.SETTINGS.items():
        null = f"; null: {limits.null}" if limits.null else ""
        lines += [f"# {limits.meaning}.", f"# Accepts {limits.describe()}{null}.", f"{key}: {_yaml(key)}", ""]
    return "\n".join(lines).strip() + "\n"


def selectors_table() -> str:
    rows = ["| name | keeps | hands over | needs a trained sieve |", "|---|---|---|---|"]
    for name, each in SELECTORS.items():
        states, trained = "refined states" if each.refines else "embeddings", "yes" if each.trained else ""
        rows.append(f"| `{name}` | {each.help} | {states} | {trained} |")
    return "\n".join(rows)


def filled(page: str, *contents: str) -> str:
    """The page with `contents` between its pairs of marks, whose words around them are written by hand."""
    marks = re.compile(r"(<!-- written by [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)
    assert len(marks.findall(page)) == len(contents), "the page lost a mark"
    fresh = iter(contents)
    return marks.sub(lambda mark: f"{mark[1]}{next(fresh)}\n{mark[2]}", page)


PAGES: dict[str, Callable[[str], str]] = {
    "profiles/default.yaml": lambda page: default_profile(),  # first: its summary stands in a page below
    "docs/cli.md": lambda page: filled(page, command_pages()),
    "docs/training.md": lambda page: filled(page, memory.table()),
    "docs/sieve.md": lambda page: filled(page, selectors_table()),
    "docs/configuration.md": lambda page: filled(page, settings_table(), profiles_table()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_the_program_says(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    assert page == PAGES[name](page), "run: python tests/test_docs.py"


@pytest.mark.parametrize("name", ["docs/ep-smol.md"])
def test_a_page_names_the_default_budget_as_it_is(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    assert f"{config.DEFAULT_KEEP}" in page
    assert f"{config.DEFAULT_LEAST} tokens at least" in page


def test_exit_codes_in_the_page_are_those_of_the_errors() -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.EpError)]
    assert listed == {0, errors.EXIT_PARTIAL, errors.EXIT_INTERRUPT, *(each.exit_code for each in classes)}


if __name__ == "__main__":
    for page_name, render in PAGES.items():
        path = ROOT / page_name
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
