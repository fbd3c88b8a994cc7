"""HTTP to one upstream: one request at a time, bounded in time and size, and gone at once when its
job is.

Every wait has an end of its own: to connect, until the answer begins, and between two pieces of
it. Redirects, proxies of the environment and compressed answers are not followed: the first could
take the token elsewhere, and the last makes sizes that nobody announced.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import httpx
import trio

from node.upstream.errors import broken, of_status, too_slow, unreachable
from node.upstream.patience import Patience
from protocols.errors import JobFailed
from protocols.limits import MAX_UPSTREAM_ERROR_BYTES, UPSTREAM_CONNECT_S

CLOSE_WITHIN_S: Final = 1.0
END_WITHIN_S: Final = 0.2
OK: Final = 200
GIVEN_UP_S: Final = 1e9  # the limits of httpx that ours stand in for


class Answer:
    """The body of a good answer, while it comes."""

    def __init__(self, pieces: AsyncIterator[bytes], patience: Patience, first_by: float) -> None:
        self._pieces = pieces
        self._patience = patience
        self._first_by = first_by
        self._size_bytes = 0

    async def next(self, max_bytes: int) -> bytes:
        """Return the next piece, empty at the end; raises ``JobFailed``, also when it has more than
        ``max_bytes`` in all.
        """
        with _told():
            piece = await self._next_in_time()
        self._size_bytes += len(piece)
        if self._size_bytes > max_bytes:
            raise broken(f"it has more than {max_bytes} bytes")
        return piece

    async def whole(self, max_bytes: int) -> bytes:
        """Return all of it; raises as ``next``."""
        pieces: list[bytes] = []
        while piece := await self.next(max_bytes):
            pieces.append(piece)
        return b"".join(pieces)

    async def end(self) -> None:
        """After all that was wanted has come: give the rest a moment, for a connection can be used
        again only once its answer has ended.
        """
        with trio.move_on_after(END_WITHIN_S), _told():
            while await anext(self._pieces, b""):
                pass

    async def _next_in_time(self) -> bytes:
        if not self._size_bytes:
            with trio.move_on_at(self._first_by):
                return await anext(self._pieces, b"")
            raise too_slow("no first byte", self._patience.first_byte_s)
        with trio.move_on_after(self._patience.silence_s):
            return await anext(self._pieces, b"")
        raise too_slow("nothing more", self._patience.silence_s)


class UpstreamClient:
    """Sends requests to one upstream. ``http`` has its address and the token."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @asynccontextmanager
    async def ask(
        self, path: str, patience: Patience, body: bytes | None = None
    ) -> AsyncGenerator[Answer]:
        """Send one request, a POST if it has a body, and give its answer to the block; the
        connection is free or closed when the block is left.

        Raises ``JobFailed`` with one of the codes of ``node.upstream.errors``.
        """
        first_by = trio.current_time() + patience.first_byte_s
        response = await self._send(path, body, patience, first_by)
        pieces = response.aiter_raw()
        try:
            answer = Answer(pieces, patience, first_by)
            await _check(response, path, answer)
            yield answer
        finally:
            await _finish(response, pieces)

    async def _send(
        self, path: str, body: bytes | None, patience: Patience, first_by: float
    ) -> httpx.Response:
        method = "GET" if body is None else "POST"
        headers = {} if body is None else {"Content-Type": "application/json"}
        with _told():
            request = self._http.build_request(method, path, content=body, headers=headers)
            with trio.move_on_at(first_by):
                return await self._http.send(request, stream=True)
        raise too_slow("no first byte", patience.first_byte_s)


@asynccontextmanager
async def open_http(url: str, token: str, connections: int) -> AsyncGenerator[httpx.AsyncClient]:
    """A connection pool for the server at ``url``; certificates are checked against the system's
    authorities.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "covey"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    verify = ssl.create_default_context() if url.startswith("https:") else False
    async with httpx.AsyncClient(
        base_url=url,
        headers=headers,
        verify=verify,
        trust_env=False,
        timeout=httpx.Timeout(GIVEN_UP_S, connect=UPSTREAM_CONNECT_S),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
    ) as http:
        yield http


async def _check(response: httpx.Response, path: str, answer: Answer) -> None:
    if response.status_code != OK:
        body = await _beginning(answer)
        raise of_status(response.status_code, path, body)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise broken("it is compressed, which was not asked for")


async def _beginning(answer: Answer) -> bytes:
    """Return what a refusal says, as far as it can be had."""
    try:
        return await answer.whole(MAX_UPSTREAM_ERROR_BYTES)
    except JobFailed:
        return b""


async def _finish(response: httpx.Response, pieces: AsyncIterator[bytes]) -> None:
    """Close an answer, read to its end or not.

    trio wants asynchronous generators exhausted, and those inside httpx can only be ended by what
    ends a read: so one read is begun and cancelled.
    """
    with suppress(httpx.HTTPError, httpx.StreamError):
        with trio.CancelScope(shield=True) as scope:
            scope.cancel()
            async for _ in pieces:
                pass
        with trio.move_on_after(CLOSE_WITHIN_S, shield=True):
            await response.aclose()


@contextmanager
def _told() -> Generator[None]:
    """Turn what httpx raises into what a job fails with; the server's address stays here."""
    try:
        yield
    except httpx.ConnectTimeout:
        raise too_slow("no sign of a connection", UPSTREAM_CONNECT_S) from None
    except httpx.ProtocolError as error:
        raise broken(f"it is no HTTP ({type(error).__name__})") from None
    except httpx.TransportError as error:
        raise unreachable(error) from None
