"""The node for MCP clients: the tools, and the two ways to reach them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from node.runner.kinds import Needs
from protocols.errors import CoveyError

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from node.client import Covey

NEEDS: Final = Needs("mcp", ("mcp",))


def mcp_server(covey: Covey) -> MCPServer:
    """Return a server whose tools use one node.

    The first call imports the library, half a second and 30 MB. Raises ``CoveyError`` where it
    is not installed.
    """
    if (why := NEEDS.unmet()) is not None:
        raise CoveyError(why, code="extra-missing")
    return import_module("node.api.mcp.tools").mcp_server(covey)
