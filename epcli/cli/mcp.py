"""`ep mcp`: tools for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from epcli.cli.index import IndexFlag
from epcli.cli.options import DebugFlag, path_argument, settings
from epcli.config import Resolved
from epcli.errors import UsageError


@settings("look", "answer", "tokens", "machine")
def mcp(
    folders: Annotated[list[Path], path_argument("Folders whose files may be used; no others are.", "FOLDER...")],
    *,
    resolved: Resolved,
    index: IndexFlag = None,
    debug: DebugFlag = False,
) -> None:
    """Serve the tools ask, find, transcript and inspect to other programs, over the Model Context Protocol.

    It speaks on standard input and output, until the client ends it. It needs: pip install 'epcli[mcp]'.
    """
    try:
        from epcli.mcp.server import make
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("mcp", "pydantic"):
            raise
        raise UsageError("the MCP SDK is not installed; run: pip install 'epcli[mcp]'") from None
    from epcli.find.index import default_path
    from epcli.models import catalog

    catalog.find(resolved.profile.model)
    make(folders, resolved.profile, index or default_path()).run()
