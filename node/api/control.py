"""The control API that commands use, on a unix socket: what the node is, whom it knows, and
jobs.
"""

from __future__ import annotations

import base64
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import trio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from node.errors import InputError
from node.job import JobSpec
from node.reading import READERS, plain
from node.requirements import Requirements
from peer.addresses import announced
from peer.control import HANDLERS, json_lines
from peer.leaving import from_ticket, leave
from peer.revocations import revoke
from protocols.errors import CoveyError
from protocols.job import JOB_ID_BYTES
from protocols.keys import peer_id_of
from protocols.membership import ADMITTER

if TYPE_CHECKING:
    from starlette.requests import Request

    from node.daemon import Node
    from node.job import JobResult, Progress
    from peer.directory import Entry

T = TypeVar("T", bound=msgspec.Struct)

OUTPUT_LINE_BYTES: Final = (
    192 << 10
)  # a multiple of three, so that every line's base64 stands alone
MAX_PENDING_EVENTS: Final = 64  # progress may be dropped when the client reads slowly
MAX_TIMEOUT_S: Final = 86_400.0


class RunQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``POST /run`` wants besides the input in its body."""

    kind: str
    model: str
    items: int
    precision: str = "auto"
    device: str | None = None
    min_memory_mb: int | None = None
    min_speed: float | None = None
    peer: str | None = None
    timeout_s: float = 600.0
    job_id: str | None = None
    """Chosen by the client: submitted again with it, a job is attached to and not done twice."""


class TicketBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``POST /ticket`` wants."""

    roles: tuple[str, ...]
    ttl_s: float


class RevokeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``POST /revoke`` wants."""

    peer: str


class ControlApi:
    """The handlers over one running node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/status", self.status),
            Route("/peers", self.peers),
            Route("/doctor", self.doctor),
            Route("/ticket", self.ticket, methods=["POST"]),
            Route("/revoke", self.revoke, methods=["POST"]),
            Route("/leave", self.leave, methods=["POST"]),
            Route("/run", self.run, methods=["POST"]),
            Route("/models/refresh", self.refresh_models, methods=["POST"]),
            Route("/records", self.read("/records")),
            Route("/records/{cid}", self.read("/records/{cid}")),
            Route("/errors", self.read("/errors")),
        ]
        return Starlette(routes=routes, exception_handlers=HANDLERS)

    async def status(self, _request: Request) -> JSONResponse:
        """How this node is."""
        node, presence = self._node, self._node.presence
        member = node.identity.member
        return JSONResponse(
            {
                "peer": node.identity.peer_id,
                "mesh": peer_id_of(member.mesh),
                "roles": list(member.certificate.roles),
                "addresses": presence.transport.addresses,
                "connected": sorted(presence.transport.connected()),
                "certificate_ends": _moment(member.ends_us),
                "is_duplicate": presence.instance.is_duplicate,
                "is_revoked": presence.gatekeeper.is_revoked,
                "revocations": presence.revocations.version,
                "known_peers": len(presence.directory),
                "models": [model.name for model in node.models.list()],
                "runners": [msgspec.to_builtins(runner) for runner in node.runners.running()],
                "jobs": node.worker.unfinished,
                "shares_records": node.config.share,
                "epoch": node.feeds.epoch,
                "next_sequence": node.feeds.next_sequence,
                "acknowledged": node.feeds.acknowledged_sequence(),
            }
        )

    async def peers(self, _request: Request) -> JSONResponse:
        """Everyone this node knows, itself first."""
        entries = sorted(self._node.presence.directory, key=lambda e: (not e.is_self, e.peer_id))
        return JSONResponse([_peer_row(entry) for entry in entries])

    async def doctor(self, _request: Request) -> JSONResponse:
        """Which way of discovery found whom."""
        return JSONResponse(self._node.presence.report())

    async def ticket(self, request: Request) -> JSONResponse:
        """A new join ticket, where this node is an admitter."""
        body = _parse(await request.json(), TicketBody)
        admitter = self._node.admitter
        if admitter is None:
            raise CoveyError(
                "this node is no admitter, so it cannot invite anybody",
                code="not-admitter",
                hint="ask the node where `covey init` was run",
            )
        addresses = announced(self._node.presence.transport.addresses)
        ticket = admitter.ticket(body.roles, addresses, int(body.ttl_s))
        return JSONResponse({"ticket": str(ticket), "roles": list(body.roles), "ttl_s": body.ttl_s})

    async def revoke(self, request: Request) -> JSONResponse:
        """Put a peer out of the mesh, where the root key is."""
        body = _parse(await request.json(), RevokeBody)
        presence = self._node.presence
        answer = revoke(presence.revocations, self._node.identity, body.peer)
        return JSONResponse({**answer, "told": len(presence.transport.connected())})

    async def leave(self, _request: Request) -> JSONResponse:
        """Leave the mesh, then stop: without a membership there is nothing left to do."""
        node, presence = self._node, self._node.presence
        admitters = from_ticket(node.identity.member)
        for entry in presence.directory.with_role(ADMITTER):
            if not entry.is_self:
                admitters.setdefault(entry.peer_id, []).extend(entry.addresses)
        answer = await leave(node.identity, presence.transport, admitters)
        signal.raise_signal(signal.SIGTERM)  # the way in which everything else stops, too
        return JSONResponse(answer)

    async def refresh_models(self, _request: Request) -> JSONResponse:
        """Advertise the models that are installed now."""
        await self._node.offerer.refresh()
        return JSONResponse({"models": [model.name for model in self._node.models.list()]})

    def read(self, route: str) -> Any:
        """A handler that answers from the index."""
        reader = READERS[route]

        async def answer(request: Request) -> JSONResponse:
            query = {**request.query_params, **request.path_params}
            await self._node.index.catch_up()
            return JSONResponse(await self._node.index.ask(lambda store: reader(store, query)))

        return answer

    async def run(self, request: Request) -> StreamingResponse:
        """Submit a job; answer its progress, its output in pieces, then its result, as JSON
        lines.
        """
        query = _parse(dict(request.query_params), RunQuery)
        if not 0 < query.timeout_s <= MAX_TIMEOUT_S:
            raise InputError(f"the timeout must lie between 0 and {MAX_TIMEOUT_S:.0f} seconds")
        spec = JobSpec(
            job_id=_job_id(query.job_id) or self._node.effects.token(JOB_ID_BYTES),
            kind=query.kind,
            model=query.model,
            precision=query.precision,
            input=await request.body(),
            items=query.items,
            budget_ms=int(query.timeout_s * 1_000),
            peer=query.peer,
            requirements=Requirements(
                device=query.device,
                min_memory_mb=query.min_memory_mb,
                min_speed=query.min_speed,
            ),
        )
        return StreamingResponse(json_lines(self._job(spec)), media_type="application/x-ndjson")

    async def _job(self, spec: JobSpec) -> AsyncIterator[Any]:
        """Yield the lines of one job; a client that goes away cancels it."""
        send, receive = trio.open_memory_channel[Any](MAX_PENDING_EVENTS)
        scope = trio.CancelScope()
        self._node.nursery.start_soon(self._submit, spec, send, scope)
        try:
            async with receive:
                async for event in receive:
                    if isinstance(event, CoveyError):
                        raise event
                    yield event
        finally:
            scope.cancel()

    async def _submit(
        self, spec: JobSpec, send: trio.MemorySendChannel[Any], scope: trio.CancelScope
    ) -> None:
        def on_progress(progress: Progress) -> None:
            with suppress(trio.WouldBlock):  # the next one tells more
                send.send_nowait({"progress": msgspec.to_builtins(progress)})

        with suppress(trio.BrokenResourceError), scope:  # broken: the client went away
            async with send:
                try:
                    result = await self._node.submissions.run(spec, on_progress)
                except CoveyError as error:
                    await send.send(error)
                    return
                for start in range(0, len(result.output), OUTPUT_LINE_BYTES):
                    piece = result.output[start : start + OUTPUT_LINE_BYTES]
                    await send.send({"output": base64.b64encode(piece).decode()})
                await send.send({"result": _summary(spec, result)})


def _parse(values: dict[str, Any], schema: type[T]) -> T:
    try:
        return msgspec.convert(values, type=schema, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"the request is not understood: {error}") from error


def _job_id(text: str | None) -> bytes | None:
    try:
        job_id = bytes.fromhex(text) if text is not None else None
    except ValueError:
        job_id = b""
    if job_id is not None and len(job_id) != JOB_ID_BYTES:
        raise InputError(
            f"{text!r} is not a job id",
            hint=f"a job id is {2 * JOB_ID_BYTES} random hexadecimal digits: openssl rand -hex 16",
        )
    return job_id


def _moment(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="seconds")


def _summary(spec: JobSpec, result: JobResult) -> dict[str, Any]:
    return {
        "job_id": result.job_id.hex(),
        "kind": spec.kind,
        "model": spec.model,
        "items": spec.items,
        "worker": result.worker,
        "attempts": result.attempts,
        "input_cid": str(result.input_cid),
        "output_cid": str(result.output_cid),
        "record_cid": str(result.record_cid),
        "submitted_cid": str(result.submitted_cid),
        "accepted_cid": str(result.accepted_cid),
        "timings": result.timings,
        "execution": result.execution,
    }


def _peer_row(entry: Entry) -> dict[str, Any]:
    advert = entry.advert
    return {
        "peer": entry.peer_id,
        "is_self": entry.is_self,
        "is_connected": entry.is_connected,
        "roles": list(entry.certificate.roles),
        "addresses": list(entry.addresses),
        "capabilities": plain(advert.capabilities) if advert else None,
        "models": [model.name for model in advert.models] if advert else [],
        "software": advert.software if advert else None,
    }
