"""`ep mcp`: which files a client can have, and the tools as the SDK's own client calls them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from epcli.errors import MediaError, UsageError
from epcli.mcp.allowed import Allowed
from epcli.mcp.tools import Tools, _range

ROOT = Path(__file__).parents[1]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two folders, of which `films` is allowed, and links of every kind."""
    (tmp_path / "films" / "sub").mkdir(parents=True)
    (tmp_path / "films2").mkdir()
    (tmp_path / "films" / "a.mp4").write_text("a")
    (tmp_path / "films" / "sub" / "b.mp4").write_text("b")
    (tmp_path / "films2" / "secret.mp4").write_text("secret")
    (tmp_path / "films" / "inside.mp4").symlink_to("sub/b.mp4")
    (tmp_path / "films" / "out.mp4").symlink_to(tmp_path / "films2" / "secret.mp4")
    (tmp_path / "films" / "outdir").symlink_to(tmp_path / "films2")
    (tmp_path / "films" / "circle").symlink_to("circle")
    return tmp_path


@pytest.mark.parametrize("name", ["a.mp4", "sub/b.mp4", "sub/../a.mp4", "./a.mp4", "inside.mp4", "{films}/a.mp4"])
def test_a_file_of_an_allowed_folder_is_given(place: Path, name: str) -> None:
    found = Allowed([place / "films"]).file(name.format(films=place / "films"))
    assert found in {place / "films" / "a.mp4", place / "films" / "sub" / "b.mp4"}


@pytest.mark.parametrize(
    "name",
    [
        "../films2/secret.mp4",
        "sub/../../films2/secret.mp4",
        "{place}/films2/secret.mp4",
        "{place}/films/../films2/secret.mp4",
        "out.mp4",  # a link that leads outside
        "outdir/secret.mp4",
        "{place}/films2/nothing.mp4",
        "/etc/passwd",
        "/proc/self/environ",
        "~/.bashrc",
        "file:///etc/passwd",
        "{place}/films",
        ".",
        "",
        "a.mp4\0",
        "circle",
        "circle/a.mp4",
        "a.mp4/../../films2/secret.mp4",
        "nothing.mp4",
        "a" * 5000,
        "\ud800.mp4",
    ],
)
def test_no_other_file_is(place: Path, name: str) -> None:
    allowed = Allowed([place / "films"])
    with pytest.raises(MediaError) as refused:
        allowed.file(name.format(place=place))
    outside = place / "films2"
    if str(outside) in name.format(place=place):  # what is outside is not told apart
        assert "is in none of the folders" in str(refused.value)


def test_a_folder_of_another_folder_is_given(place: Path) -> None:
    allowed = Allowed([place / "films"])
    assert allowed.folder(None) == (place / "films",)
    assert allowed.folder("sub") == allowed.folder(f"{place}/films/sub") == (place / "films" / "sub",)
    for name in ("..", "outdir", str(place), "/", "a.mp4", "nothing", "", "sub\0", "a" * 5000, "circle"):
        with pytest.raises(MediaError):
            allowed.folder(name)
    assert allowed.holds(place / "films" / "a.mp4")
    assert not allowed.holds(place / "films" / "out.mp4")
    assert not allowed.holds(place / "films2" / "secret.mp4")


def test_an_allowed_folder_may_be_a_link(place: Path) -> None:
    (place / "link").symlink_to(place / "films")
    assert Allowed([place / "link"]).file("a.mp4") == place / "films" / "a.mp4"
    with pytest.raises(MediaError):
        Allowed([place / "link"]).file("out.mp4")


@pytest.mark.parametrize("folders", [[], ["nowhere"], ["films/a.mp4"]])
def test_only_folders_can_be_allowed(place: Path, folders: list[str]) -> None:
    with pytest.raises(UsageError):
        Allowed([place / folder for folder in folders])


@pytest.mark.parametrize(
    "call",
    [
        lambda tools: tools.find("dog", None, ["smelt"], 10, False, print),
        lambda tools: tools.find("dog", None, [], 0, False, print),
        lambda tools: tools.find("dog", None, [], 10**9, False, print),
        lambda tools: tools.find("?", None, [], 10, False, print),
        lambda tools: tools.find("dog", "..", [], 10, False, print),
        lambda tools: tools.ask("out.mp4", "What?", None, None, print),
        lambda tools: tools.transcript("out.mp4", None, None, print),
        lambda tools: tools.inspect("out.mp4", None, None, None, print),
        lambda tools: tools.ask("a.mp4", "What?", "soon", None, print),
    ],
)
def test_bad_arguments_are_refused_before_any_work(place: Path, call: Callable[[Tools], Any]) -> None:
    from epcli.config import Profile

    tools = Tools(Allowed([place / "films"]), Profile(), place / "index.sqlite")
    with pytest.raises((UsageError, MediaError)):
        call(tools)
    assert not (place / "index.sqlite").exists() or tools._session is None


def test_a_range_is_two_times() -> None:
    assert _range("1:30", "90.5") == (90.0, 90.5)
    assert _range(None, None) == (None, None)
    with pytest.raises(UsageError):
        _range("2:00", "1:00")


# --- With the SDK's client --------------------------------------------------------------------------------


def talk(folder: Path, index: Path, body: Callable[[Any], Awaitable[None]]) -> None:
    """Start `ep mcp` on a folder, and talk to it over its standard input and output."""
    pytest.importorskip("mcp")
    from mcp import Client, StdioServerParameters, stdio_client

    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "epcli", "mcp", str(folder), "--index", str(index)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    async def session() -> None:
        async with Client(stdio_client(server), read_timeout_seconds=300) as client:
            await body(client)

    asyncio.run(asyncio.wait_for(session(), 600))


@pytest.mark.slow
def test_a_client_sees_four_tools_and_cannot_leave_the_folder(place: Path) -> None:
    async def body(client: Any) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"ask", "find", "transcript", "inspect"}
        assert all(tool.annotations.read_only_hint for tool in tools.values())
        assert set(tools["ask"].input_schema["required"]) == {"file", "question"}
        for name in ("out.mp4", "../films2/secret.mp4", "/etc/passwd"):
            for tool, more in (("ask", {"question": "What?"}), ("transcript", {}), ("inspect", {})):
                result = await client.call_tool(tool, {"file": name, **more})
                assert result.is_error
                assert "is in none of the folders that may be used" in result.content[0].text
        result = await client.call_tool("find", {"query": "dog", "folder": ".."})
        assert result.is_error
        result = await client.call_tool("ask", {"file": "a.mp4", "question": ""})
        assert result.is_error
        result = await client.call_tool("ask", {"file": 3})
        assert result.is_error

    talk(place / "films", place / "index.sqlite", body)


@pytest.mark.slow
def test_a_client_finds_asks_and_reads(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    for name in ("farm", "speech"):
        shutil.copyfile(ROOT / "docs" / "media" / f"{name}.mp4", films / f"{name}.mp4")
    (tmp_path / "outside.mp4").write_bytes((ROOT / "docs" / "media" / "moment.mp4").read_bytes())
    (films / "link.mp4").symlink_to(tmp_path / "outside.mp4")

    async def body(client: Any) -> None:
        told: list[tuple[float, float | None, str | None]] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            told.append((done, total, message))

        found = await client.call_tool("find", {"query": "a dog barking"}, progress_callback=progress)
        assert not found.is_error, found.content
        paths = [Path(moment["path"]).name for moment in found.structured_content["moments"]]
        assert paths == ["farm.mp4"]  # not the link, although a dog barks there too
        assert any("indexing" in (message or "") for _, _, message in told)
        assert [each[0] for each in told] == sorted(each[0] for each in told)

        words = await client.call_tool("transcript", {"file": "speech.mp4"})
        assert "number" in words.structured_content["text"]
        assert words.structured_content["lines"][0]["start_s"] < 2

        told.clear()
        answer = await client.call_tool(
            "ask", {"file": "farm.mp4", "question": "What do you hear?", "end": "4"}, progress_callback=progress
        )
        assert not answer.is_error, answer.content
        assert answer.structured_content["answer"]
        assert answer.structured_content["evidence"] is not None
        assert len(told) >= 2

        shown = await client.call_tool("inspect", {"file": str(films / "farm.mp4")})
        assert not shown.is_error, shown.content
        assert shown.structured_content["media"]["duration_s"] == pytest.approx(8, abs=0.5)
        assert shown.structured_content["tokens"]["audio"]["total"] > 0

    talk(films, tmp_path / "index.sqlite", body)
