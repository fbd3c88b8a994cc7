"""An answer as server-sent events, for as long as its client reads them.

What came since the last event waits in one place and goes out together, so that a client that reads
slowly costs no more than the output itself; one that takes nothing for ``STALLED_S`` counts as
gone. A client that is gone ends its job.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final, Protocol

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.api.following import News
from node.api.openai.errors import ApiError, body_of
from node.api.openai.front import CLIENT_GONE, PART_COST, Front, aside
from node.api.openai.models import why_nobody
from node.errors import NoWorkerError
from node.job import JobSpec
from protocols.errors import CoveyError

STALLED_S: Final = 60.0
RESTARTED: Final = "restarted"
HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",  # a proxy in between passes events on as they come
}


class Wording(Protocol):
    """How an output is told in events."""

    def grown(self, body: bytes) -> bytes:
        """Return the events of what came of it."""
        ...

    def ended(self, summary: dict[str, Any]) -> bytes:
        """Return the last events."""
        ...


class EventStream(Response):
    """The answer to one request. ``taken`` is what the request holds until it is over."""

    def __init__(
        self, front: Front, request: Request, spec: JobSpec, events: Wording, taken: ExitStack
    ) -> None:
        super().__init__(headers={**HEADERS, "X-Request-Id": spec.job_id.hex()})
        del self.headers["content-length"]
        self._front = front
        self._request = request
        self._spec = spec
        self._events = events
        self._taken = taken
        self._is_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises what went wrong before anything was said."""

        async def tell(news: News) -> None:
            await self._tell(news, send)

        with self._taken:
            try:
                await self._front.follow(self._request, self._spec, tell)
            except CoveyError as error:
                await self._fail(error, send)

    async def _tell(self, news: News, send: Send) -> None:
        if news.is_anew:
            raise CoveyError(
                "the worker was lost, and the next one computes otherwise: what came is void",
                code=RESTARTED,
                hint="ask again",
            )
        told = await aside(PART_COST * len(news.body), lambda: self._events.grown(news.body))
        if news.summary is not None:
            told += self._events.ended(news.summary)
        if told:
            await self._send(told, send, is_last=news.summary is not None)

    async def _fail(self, error: CoveyError, send: Send) -> None:
        if not self._is_begun:
            if isinstance(error, NoWorkerError):
                raise why_nobody(self._front.directory, self._spec, error) from error
            raise error
        if not (isinstance(error, ApiError) and error.status == CLIENT_GONE):
            content = b"data: " + msgspec.json.encode({"error": body_of(error)}) + b"\n\n"
            await self._send(content, send, is_last=True)

    async def _send(self, content: bytes, send: Send, *, is_last: bool) -> None:
        with trio.move_on_after(STALLED_S) as patience:
            if not self._is_begun:
                self._is_begun = True
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
            await send({"type": "http.response.body", "body": content, "more_body": not is_last})
        if patience.cancelled_caught:
            raise ApiError(CLIENT_GONE, "the client takes nothing", code="client-gone")
