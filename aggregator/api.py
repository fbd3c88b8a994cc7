"""The aggregator's HTTP applications: the control API on its unix socket, and the small one that
watchers may reach over TCP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, BinaryIO, Final

import msgspec
import trio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from aggregator.answers import Answers
from aggregator.errors import NotFoundError
from aggregator.lineage import MAX_DEPTH, MAX_RECORDS
from aggregator.metrics import CONTENT_TYPE, Metrics
from aggregator.relatives import (
    DIRECTIONS,
    MAX_LINKS,
    MAX_PAGE,
    MAX_PATH_LINKS,
    MAX_PATHS,
    PAGE,
    PATH_LINKS,
    PATHS,
    Asked,
)
from aggregator.surroundings import Surroundings
from peer.control import HANDLERS
from peer.exporting import respond
from protocols.errors import CoveyError

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1")


async def sync_without_daemon() -> dict[str, Any]:
    """Stand for the filer where no daemon runs."""
    raise CoveyError(
        "only a running aggregator reads issues back",
        code="daemon-down",
        hint="start it with `covey-aggregator up`",
    )


class RedactBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``POST /redact`` wants."""

    records: tuple[str, ...]
    reason: str


class Api:
    """The handlers over one aggregator's answers; ``around`` is asked anew by each."""

    def __init__(
        self,
        answers: Answers,
        metrics: Metrics,
        around: Callable[[], Surroundings],
        refresh: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        sync: Callable[[], Awaitable[dict[str, Any]]] = sync_without_daemon,
    ) -> None:
        """``refresh`` brings in what peers have not sent yet, ``sync`` what people did to issues; a
        command without a daemon has neither.
        """
        self._answers = answers
        self._metrics = metrics
        self._around = around
        self._refresh = refresh
        self._sync = sync

    def control(self) -> Starlette:
        """Return the application for the control socket, whose owner may ask and do everything."""
        routes = [
            Route("/status", self.status),
            Route("/state-root", self.state_root),
            Route("/missing", self.missing),
            Route("/groups", self.groups),
            Route("/groups/{id}", self.group),
            Route("/issues", self.issues),
            Route("/issues/sync", self.sync, methods=["POST"]),
            Route("/lineage/{cid}", self.lineage),
            Route("/redact", self.redact, methods=["POST"]),
            Route("/export/{form}", self.export),
            Route("/verify/{cid}", self.verify),
            Route("/lineage/{cid}/paths", self.paths),
            *(Route(f"/lineage/{{cid}}/{way}", self.relatives, name=way) for way in DIRECTIONS),
            Route("/check", self.check),
            Route("/checkpoint", self.checkpoint, methods=["POST"]),
            Route("/rebuild", self.rebuild, methods=["POST"]),
            *self._watching(),
        ]
        return Starlette(routes=routes, exception_handlers=HANDLERS)

    def watching(self, host: str) -> Starlette:
        """Return the application for TCP: nothing but counts and a sign of life.

        On loopback only requests that name it are answered, so that no web page can read them
        through a name of its own that resolves here.
        """
        hosts = LOOPBACK_NAMES if host in LOOPBACK_NAMES else ("*",)
        guard = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)
        return Starlette(routes=self._watching(), middleware=[guard])

    def _watching(self) -> list[Route]:
        return [Route("/healthz", self.healthz), Route("/metrics", self.metrics)]

    async def status(self, _request: Request) -> Response:
        """What this aggregator is, holds and sees."""
        return JSONResponse(await self._answers.status(self._around()))

    async def state_root(self, _request: Request) -> Response:
        """Where each feed stands."""
        return JSONResponse(self._answers.standing(await self._answers.losses.known()))

    async def missing(self, _request: Request) -> Response:
        """Records that others name and that have not arrived."""
        return JSONResponse(await self._answers.missing())

    async def groups(self, _request: Request) -> Response:
        """Every group."""
        return JSONResponse(self._answers.groups())

    async def group(self, request: Request) -> Response:
        """One group with its variants and reports."""
        return JSONResponse(await self._answers.group(request.path_params["id"]))

    async def issues(self, _request: Request) -> Response:
        """Every issue of the mesh."""
        return JSONResponse(self._answers.issues())

    async def sync(self, _request: Request) -> Response:
        """Read back what people did to issues in their trackers."""
        return JSONResponse(await self._sync())

    async def lineage(self, request: Request) -> Response:
        """What made an output. What is not known yet is asked for before the answer is no."""
        question = (
            request.path_params["cid"],
            _number(request, "depth", MAX_DEPTH),
            _number(request, "limit", MAX_RECORDS),
        )
        with suppress(NotFoundError):
            found = await self._answers.lineage(*question)
            if not found["missing"]:
                return JSONResponse(found)
        await self._refresh()
        await self._answers.index.catch_up()
        return JSONResponse(await self._answers.lineage(*question))

    async def export(self, request: Request) -> Response:
        """Records as a file. What peers have not sent yet is asked for first."""
        form, query = request.path_params["form"], request.query_params
        await self._refresh()

        async def write(out: BinaryIO) -> dict[str, Any]:
            question = (query.get("lineage"), query.get("since", ""))
            return await self._answers.export(form, *question, out)

        return await respond(write, self._answers.journal.path.parent)

    async def verify(self, request: Request) -> Response:
        """What the signed bytes behind a CID are worth."""
        await self._refresh()
        cid, query = request.path_params["cid"], request.query_params
        is_deep = query.get("deep") == "true"
        return JSONResponse(await self._answers.verify(cid, is_deep, query.get("mesh", "")))

    async def redact(self, request: Request) -> Response:
        """Have the bodies of records erased everywhere."""
        self._check_may_sign()
        try:
            asked = msgspec.json.decode(await request.body(), type=RedactBody)
        except msgspec.DecodeError as error:
            raise CoveyError(f"the request is not understood: {error}", code="bad-input") from error
        await self._refresh()
        answer = await self._answers.redact(asked.records, asked.reason)
        await self._refresh()  # whoever holds it hears of the tombstone at once
        return JSONResponse(answer)

    async def checkpoint(self, _request: Request) -> Response:
        """Sign what is held now."""
        self._check_may_sign()
        return JSONResponse(await self._answers.checkpoint())

    def _check_may_sign(self) -> None:
        if not self._around().is_running:
            raise CoveyError(
                "only a running aggregator signs anything",
                code="daemon-down",
                hint="start it with `covey-aggregator up`",
            )

    async def relatives(self, request: Request) -> Response:
        """What something came from or what came from it: the last word of the path says which."""
        asked = Asked.parse(
            request.path_params["cid"],
            request.url.path.rpartition("/")[2],
            _number(request, "depth", MAX_LINKS),
            _number(request, "limit", MAX_PAGE, PAGE),
            request.query_params.get("page", ""),
        )
        return JSONResponse(await self._known(lambda: self._answers.relatives(asked)))

    async def paths(self, request: Request) -> Response:
        """How one thing came from another."""
        question = (
            request.path_params["cid"],
            request.query_params.get("to", ""),
            _number(request, "depth", MAX_PATH_LINKS, PATH_LINKS),
            _number(request, "limit", MAX_PATHS, PATHS),
        )
        return JSONResponse(await self._known(lambda: self._answers.paths(*question)))

    async def _known(self, ask: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Ask; what nobody has heard of is asked for at peers before the answer is no."""
        with suppress(NotFoundError):
            return await ask()
        await self._refresh()
        return await ask()

    async def check(self, request: Request) -> Response:
        """What is wrong with journal and index. What peers have not sent yet is asked for first."""
        is_accepted = request.query_params.get("accept_loss") == "true"
        if is_accepted:
            self._check_may_sign()
        await self._refresh()
        answer = await self._answers.check(self._around(), is_loss_accepted=is_accepted)
        return JSONResponse(answer)

    async def rebuild(self, _request: Request) -> Response:
        """Make the index anew."""
        return JSONResponse(await self._answers.rebuild())

    async def healthz(self, _request: Request) -> Response:
        """Answer as long as the event loop runs and the index follows."""
        body: dict[str, Any] = {"ok": True, "index_lag_bytes": self._answers.index.lag_bytes}
        return JSONResponse(body)

    async def metrics(self, _request: Request) -> Response:
        """Prometheus' text format."""
        status = await self._answers.status(self._around())
        content = self._metrics.render(status, self._answers.intake.findings)
        return PlainTextResponse(content, media_type=CONTENT_TYPE)


def _number(request: Request, name: str, largest: int, usual: int | None = None) -> int:
    text = request.query_params.get(name, str(usual or largest))
    if not text.isdecimal() or not 1 <= int(text) <= largest:
        raise CoveyError(
            f"{name} must be a number from 1 to {largest}, not {text!r}", code="bad-query"
        )
    return int(text)
