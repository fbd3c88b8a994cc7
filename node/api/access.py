"""Who may reach an application over TCP, in three layers around it, as ASGI.

``HostCheck`` keeps out web pages: one that another site serves cannot name an allowed origin, and
one that reaches us through a name of its own that resolves here (DNS rebinding) cannot name an
allowed host. ``TokenCheck`` keeps out every other program. ``Draining`` sees to it that a refusal
leaves nothing behind: it is the outermost.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import trio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.openai.errors import ApiError, response_of

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]@/\s]+)(?::\d{1,5})?")
LINGER_S: Final = 2.0  # a client that still sends reads its refusal only if nobody resets it


@dataclass(frozen=True, slots=True)
class Access:
    """What a request must show: the token, one of the hosts, and one of the origins if any."""

    token: str
    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, token: str, host: str, hosts: Iterable[str] = (), origins: Iterable[str] = ()
    ) -> Access:
        """``host`` is the address listened on, ``hosts`` other names by which clients know it."""
        names = (_bracketed(name.lower()) for name in (host, *hosts))
        return cls(token, LOOPBACK | frozenset(names), frozenset(origins))

    def guard(self, app: ASGIApp) -> ASGIApp:
        """Return the application behind all layers."""
        inner: ASGIApp = TokenCheck(app, self.token)
        if self.origins:
            from starlette.middleware.cors import CORSMiddleware

            inner = CORSMiddleware(
                inner,
                allow_origins=sorted(self.origins),
                allow_methods=("GET", "POST"),
                allow_headers=("*",),
                expose_headers=("X-Request-Id", "X-Truncated-Texts"),
            )
        return Draining(HostCheck(inner, self))


class HostCheck:
    """Refuses other hosts and other origins. Websockets are closed: nothing here speaks them."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else response_of(refusal))(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        hosts = [HOST.fullmatch(value.lower()) for value in headers.getlist("host")]
        if [host and host["name"] in self._access.hosts for host in hosts] != [True]:
            return ApiError(
                403,
                "this host name is not one of this node's: add it to api.hosts if it is",
                code="wrong-host",
            )
        if not set(headers.getlist("origin")) <= self._access.origins:
            return ApiError(
                403, "web pages of this origin may not: see api.origins", code="wrong-origin"
            )
        return None


class TokenCheck:
    """Refuses requests that do not show the token, in the same time whatever they show."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = f"bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] == "http" and not self._is_shown(scope):
            refusal = ApiError(
                401,
                "the token is missing or wrong: `covey status` names the file that has it",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
            await response_of(refusal)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_shown(self, scope: Scope) -> bool:
        shown = Headers(scope=scope).get("authorization", "").encode("latin-1")
        scheme, _, token = shown.partition(b" ")
        return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._wanted)


class Draining:
    """Throws away what is left of a body once its answer begins.

    hypercorn 0.18 hands a body on through a bounded queue: when that is full and nobody reads, the
    connection never ends, and anybody could pile up such connections. And a client that still sends
    when its connection is closed loses the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        async with trio.open_nursery() as nursery:

            async def draining_send(message: Message) -> None:
                if message["type"] == "http.response.start" and not body.is_over:
                    with trio.move_on_after(LINGER_S):
                        await body.drain()
                    if not body.is_over:
                        nursery.start_soon(body.drain)
                await send(message)

            await self._app(scope, body.receive, draining_send)
            nursery.cancel_scope.cancel()


class _Body:
    """What a client still sends."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_over = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.is_over = not (message["type"] == "http.request" and message.get("more_body", False))
        return message

    async def drain(self) -> None:
        while not self.is_over:
            await self.receive()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
