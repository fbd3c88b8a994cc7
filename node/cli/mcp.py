"""``covey mcp``."""

from __future__ import annotations

import click


@click.command()
def mcp() -> None:
    """Serve this machine's node to an MCP client over stdin and stdout.

    Clients start this command themselves, and the node must be up. With the HTTP API on, the same
    tools are at /mcp behind its token; `covey status` says where.

    \b
    Example:  covey mcp, as {"mcpServers": {"covey": {"command": "covey", "args": ["mcp"]}}}
    """
    import trio

    trio.run(_serve)


async def _serve() -> None:
    from node.api.mcp import mcp_server
    from node.cli.connection import home
    from node.client import connect

    async with connect(home().path) as covey:
        await mcp_server(covey).run_stdio_async()
