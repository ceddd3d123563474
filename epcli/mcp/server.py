"""The MCP server: the protocol around the tools, on standard input and output."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from epcli import __version__
from epcli.config import Profile
from epcli.errors import EpError, unexpected
from epcli.mcp.allowed import Allowed
from epcli.mcp.tools import Tell, Tools
from epcli.text import one_line

LAST_WORD_S = 5.0  # the last progress is waited for, since none may follow the result

FileArgument = Annotated[str, Field(description="A media file: an absolute path, or a path below an allowed folder.")]
StartArgument = Annotated[str | None, Field(description="Begin at this time: 90, 1:30 or 0:01:30.")]
EndArgument = Annotated[str | None, Field(description="Stop at this time.")]
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


class Worker:
    """One thread for all tools: models and SQLite stay on it, and two questions do not share a processor."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "tools")

    async def run(self, context: Context, work: Callable[[Tell], dict[str, Any]]) -> dict[str, Any]:
        """Do some work on the thread; what it tells becomes progress. A cancelled call ends at its next progress."""
        loop, ended = asyncio.get_running_loop(), threading.Event()
        last: Future[None] | None = None

        def tell(progress: float, total: float | None, message: str) -> None:
            nonlocal last
            if ended.is_set():
                raise _Cancelled
            last = asyncio.run_coroutine_threadsafe(context.report_progress(progress, total, one_line(message)), loop)

        def body() -> dict[str, Any]:
            try:
                return work(tell)
            finally:
                if last is not None and not ended.is_set():
                    last.exception(LAST_WORD_S)

        try:
            return await asyncio.wrap_future(self._pool.submit(body))
        except asyncio.CancelledError:
            ended.set()
            raise
        except EpError as error:
            raise ToolError(one_line(str(error))) from error
        except Exception as error:  # the SDK would log it, but tell the client nothing
            logging.getLogger(__name__).exception("a tool failed")
            raise ToolError(one_line(unexpected(error, debug=True))) from error


class _Cancelled(Exception):
    """The client has given up."""


def make(folders: list[Path], profile: Profile, index: Path) -> MCPServer:
    """A server for files in these folders. Raises UsageError for one that is not there."""
    allowed = Allowed(folders)
    tools, worker = Tools(allowed, profile, index), Worker()
    places = ", ".join(one_line(str(folder)) for folder in allowed.folders)
    server = MCPServer(
        "epcli",
        title="epcli",
        version=__version__,
        instructions=f"Questions about video, sound and picture files in these folders, all on this machine: {places}. "
        "`find` tells which file and when; `ask` answers about one file or a part of it.",
        log_level="WARNING",
    )

    @server.tool(annotations=READS)
    async def ask(
        file: FileArgument,
        question: Annotated[str, Field(description="The question, in plain words.")],
        context: Context,
        start: StartArgument = None,
        end: EndArgument = None,
    ) -> dict[str, Any]:
        """Answer a question about a video, sound or picture file, and tell the moments that carried the answer."""
        return await worker.run(context, lambda tell: tools.ask(file, question, start, end, tell))

    @server.tool(annotations=READS)
    async def find(
        query: Annotated[str, Field(description="What to find: words, a description, or a 'quotation'.")],
        context: Context,
        folder: Annotated[str | None, Field(description="Only in this folder; all allowed ones without it.")] = None,
        how: Annotated[
            list[str] | None, Field(description='Only what was "said", "heard", "seen" or "read"; all without it.')
        ] = None,
        limit: Annotated[int, Field(description="Most moments.")] = 10,
        update: Annotated[bool, Field(description="Index new and changed files first, which may take long.")] = True,
    ) -> dict[str, Any]:
        """Find the moments of all files that match, best first: what was said, heard, seen or read on screen."""
        return await worker.run(context, lambda tell: tools.find(query, folder, how or [], limit, update, tell))

    @server.tool(annotations=READS)
    async def transcript(
        file: FileArgument, context: Context, start: StartArgument = None, end: EndArgument = None
    ) -> dict[str, Any]:
        """What is said in a file, line by line, with times in seconds."""
        return await worker.run(context, lambda tell: tools.transcript(file, start, end, tell))

    @server.tool(annotations=READS)
    async def inspect(
        file: FileArgument,
        context: Context,
        question: Annotated[str | None, Field(description="What is read of a file depends on a question.")] = None,
        start: StartArgument = None,
        end: EndArgument = None,
    ) -> dict[str, Any]:
        """What a file holds: length, tracks, what was recognised in it, and how much of it a question reads."""
        return await worker.run(context, lambda tell: tools.inspect(file, question, start, end, tell))

    return server
