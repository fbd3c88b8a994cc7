"""MCP over streamable HTTP, as an application that is put together at its first request."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.mcp import mcp_server
from node.api.openai.front import read_body
from node.api.room import Room
from node.client import connect
from node.submissions import Reports

if TYPE_CHECKING:
    from mcp.server import MCPServer

log = logging.getLogger(__name__)

MAX_MCP_BODY_BYTES: Final = 4 << 20  # a minute and a half of sound in base64; parsed on the loop


class McpDoor:
    """``/mcp`` of one node, which it asks as any other client does.

    Most nodes are never asked, so the library is loaded when one is. Each request stands for
    itself: no session is kept that a client could leave behind. It takes ``room`` as any other.
    """

    def __init__(self, home: Path, nursery: trio.Nursery, report: Reports, room: Room) -> None:
        self._home = home
        self._nursery = nursery
        self._report = report
        self._room = room
        self._opening = trio.Lock()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose sender has shown the token; raises ``ApiError`` and ``Refused``
        before anything is answered.
        """
        with self._room.request() as held:
            # the library logs a traceback for a body that breaks off
            body = await read_body(Request(scope, receive), held, MAX_MCP_BODY_BYTES)
            async with self._opening:
                app = self._app or await self._nursery.start(self._serve)
            await app(scope, _replayed(body, receive), send)

    async def _serve(self, *, task_status: trio.TaskStatus[ASGIApp]) -> None:
        async with connect(self._home) as covey:
            # in a thread: it imports for half a second, and the loop has other clients
            server = await trio.to_thread.run_sync(mcp_server, covey)
            self._app = _application(server)
            try:
                async with server.session_manager.run():
                    task_status.started(self._app)
                    await trio.sleep_forever()
            except Exception as error:
                self._app = None
                log.error("mcp failed", exc_info=error)
                await self._report(error)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return what receives a body that was read, and then what comes after it."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay


def _application(server: MCPServer) -> ASGIApp:
    from mcp.server.transport_security import TransportSecuritySettings

    return server.streamable_http_app(
        stateless_http=True,
        max_request_body_size=MAX_MCP_BODY_BYTES,
        # node.api.access has seen to hosts and origins, and knows their other names
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
