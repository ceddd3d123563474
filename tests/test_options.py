"""The flags that commands get from `Profile`: all of them, and nothing that a command did not ask for."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from epcli.cli import app
from epcli.cli.options import Shown, given, settings
from epcli.config import SETTINGS, Resolved
from epcli.errors import UsageError


def command(name: str) -> Any:
    return typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]


def settings_of(name: str) -> set[str]:
    return {parameter.name for parameter in command(name).params} & set(SETTINGS)


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("ask", set()),
        ("chat", set()),
        ("inspect", set()),
        ("batch", set()),
        ("eval", set()),
        ("plan", {"audio_track", "system", "temperature", "seed", "threads", "cache", "cache_gb", "cache_dir"}),
    ],
)
def test_a_command_has_a_flag_for_every_setting_that_can_change_what_it_does(name: str, lacks: set[str]) -> None:
    assert set(SETTINGS) - settings_of(name) == lacks


def test_bench_looks_at_files_as_ask_does() -> None:
    looks = {name for name, setting in SETTINGS.items() if setting.group == "look"}
    assert looks | {"model", "device", "dtype", "quantize", "threads"} == settings_of("bench")


def run(*arguments: str, wanted: tuple[str, ...] = ("look",), **shown: Shown) -> Resolved:
    """What a command with these settings receives."""
    received: list[Resolved] = []

    @settings(*wanted, **shown)
    def probe(*, resolved: Resolved) -> None:
        received.append(resolved)

    small = typer.Typer()
    small.command()(probe)
    small(list(arguments), standalone_mode=False)
    return received[0]


def test_a_command_receives_its_settings_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EP_FPS", "3")
    monkeypatch.setenv("EP_KEEP", "0.5")  # of no flag of this command: it counts all the same
    resolved = run("--fps", "1.5", "--no-video", "--profile", "default")
    assert (resolved.profile.fps, resolved.profile.video, resolved.profile.keep) == (1.5, False, 0.5)
    assert given(resolved) == ["--fps", "--no-video"]


def test_a_flag_that_only_switches_off_leaves_its_positive_form_free() -> None:
    shown = {"video": Shown(meaning="Do not look", only_off=True)}
    assert not run("--no-video", **shown).profile.video
    assert run(**shown).profile.video
    with pytest.raises(typer.BadParameter.__mro__[1], match="--video"):
        run("--video", **shown)


def test_a_wrong_value_names_its_flag() -> None:
    with pytest.raises(UsageError, match="--max-frames: 0 is not a whole number from 1 up"):
        run("--max-frames", "0")
