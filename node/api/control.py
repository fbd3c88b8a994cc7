"""The control API that commands use, on a unix socket: what the node is, whom it knows, and
jobs.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import msgspec
import trio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from node.api.bench import BenchApi
from node.api.following import Following
from node.api.jobs import JobsApi
from node.api.requests import job_of, parse, wants_stream
from node.backing import Backing
from node.check import Check
from node.explanation import moment
from node.job import JobSpec, summary_of
from node.mesh_models import offered, summary
from node.reading import READERS, verify
from peer.addresses import announced
from peer.cids import parse_cid
from peer.control import HANDLERS, json_lines
from peer.exporting import Sources, respond, since
from peer.healing import size_bytes
from peer.leaving import from_ticket, leave
from peer.revocations import revoke
from protocols.errors import CoveyError
from protocols.keys import peer_id_of
from protocols.membership import ADMITTER, AGGREGATOR
from protocols.prov import plain
from protocols.tombstone import AUTHOR

if TYPE_CHECKING:
    from starlette.requests import Request

    from node.daemon import Node
    from peer.directory import Entry

T = TypeVar("T", bound=msgspec.Struct)


class TicketBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``POST /ticket`` wants."""

    roles: tuple[str, ...]
    ttl_s: float


class RevokeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``POST /revoke`` wants."""

    peer: str


class RedactBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``POST /redact`` wants."""

    records: tuple[str, ...]
    reason: str
    dropped: bool = False


class ControlApi:
    """The handlers over one running node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._jobs = JobsApi(node)

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
            *self._jobs.routes(),
            Route("/models", self.models),
            Route("/models/refresh", self.refresh_models, methods=["POST"]),
            Route("/records", self.read("/records")),
            Route("/records/{cid}", self.read("/records/{cid}")),
            Route("/redact", self.redact, methods=["POST"]),
            Route("/dropped", self.read("/dropped")),
            Route("/errors", self.read("/errors")),
            Route("/errors/{cid}", self.read("/errors/{cid}")),
            *BenchApi(self._node).routes(),
            Route("/bench", self.read("/bench")),
            Route("/bench/{cid}", self.read("/bench/{cid}")),
            Route("/export/{form}", self.export),
            Route("/verify/{cid}", self.verify),
            Route("/check", self.check, methods=["POST"]),
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
                "certificate_ends": moment(member.ends_us),
                "is_duplicate": presence.instance.is_duplicate,
                "is_revoked": presence.gatekeeper.is_revoked,
                "revocations": presence.revocations.version,
                "known_peers": len(presence.directory),
                "models": [model.name for model in node.models.list()],
                "sandbox": node.runners.sandbox.level,
                "sandbox_reason": node.runners.sandbox.reason or None,
                "runners": [msgspec.to_builtins(runner) for runner in node.runners.running()],
                "upstream": node.upstream.status(),
                "jobs": node.worker.unfinished,
                "api": self._api_told(),
                "shares_records": node.config.share,
                "epoch": node.feeds.epoch,
                "next_sequence": node.feeds.next_sequence,
                "acknowledged": node.feeds.acknowledged_sequence(),
                "dropped_reports": node.recorder.dropped.total,
                "quarantined": node.feeds.quarantined,
                "damaged_bundles": node.feeds.damaged_bundles,
                "damaged_bytes": size_bytes(node.journal.damage),
                "records_of_workers": node.worker_bundles.status(),
                "checkpoints": node.watching.status(),
                "dropped_records": node.feeds.dropped_records,
                "journal_bytes": node.journal.disk_bytes,
                "journal_segments": node.journal.segments,
            }
        )

    def _api_told(self) -> dict[str, str] | None:
        """Where the HTTP API listens, and which file has its token."""
        options = self._node.config.api
        if not options.enabled:
            return None
        token_file = str(self._node.home.api_token)
        at = f"http://{options.address}"
        return {"url": f"{at}/v1", "mcp": f"{at}/mcp", "token_file": token_file}

    async def peers(self, _request: Request) -> JSONResponse:
        """Everyone this node knows, itself first."""
        entries = sorted(self._node.presence.directory, key=lambda e: (not e.is_self, e.peer_id))
        return JSONResponse([_peer_row(entry) for entry in entries])

    async def doctor(self, _request: Request) -> JSONResponse:
        """Which way of discovery found whom, whether the upstream is there, and whether aggregators
        keep their word.
        """
        node, report = self._node, self._node.presence.report()
        kept = node.watching.status()
        return JSONResponse({**report, "upstream": node.upstream.status(), "checkpoints": kept})

    async def ticket(self, request: Request) -> JSONResponse:
        """A new join ticket, where this node is an admitter."""
        body = parse(await request.json(), TicketBody)
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
        body = parse(await request.json(), RevokeBody)
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

    async def models(self, _request: Request) -> JSONResponse:
        """What the mesh offers now, this node's own models among them."""
        offers = sorted(offered(self._node.presence.directory).items())
        return JSONResponse([{"model": name, **summary(each)} for name, each in offers])

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
            backing = Backing.of(self._node.journal, self._node.feeds)
            return JSONResponse(
                await self._node.index.ask(lambda store: reader(store, query, backing))
            )

        return answer

    async def export(self, request: Request) -> StreamingResponse:
        """The records that this node holds, as a file."""
        form, moment = request.path_params["form"], request.query_params.get("since", "")

        async def write(out: BinaryIO) -> dict[str, Any]:
            return await self._sources.export(form, since(moment), out)

        return await respond(write, self._node.home.path)

    async def verify(self, request: Request) -> JSONResponse:
        """What the signed bytes of one record are worth."""
        mesh = request.query_params.get("mesh", "")
        return JSONResponse(await verify(self._sources, request.path_params["cid"], mesh))

    async def check(self, _request: Request) -> JSONResponse:
        """What is wrong with what this node holds; others are asked for what is gone."""
        node = self._node
        known = node.presence.directory.with_role(AGGREGATOR)
        aggregators = tuple(entry.peer_id for entry in known)
        check = Check(node.index, node.journal, node.feeds, aggregators, node.exchange.ask)
        return JSONResponse(await check.run())

    @property
    def _sources(self) -> Sources:
        node = self._node
        feeds = node.feeds
        redactions = feeds.bodies.redactions
        return Sources(node.index, node.journal, node.identity, redactions, feeds.suspect)

    async def redact(self, request: Request) -> JSONResponse:
        """Have the bodies of records of this node erased."""
        body = parse(await request.json(), RedactBody)
        cids = [parse_cid(each) for each in body.records]
        redact, is_dropped = self._node.redactor.redact, body.dropped
        return JSONResponse(await redact(cids, body.reason, AUTHOR, is_dropped=is_dropped))

    async def run(self, request: Request) -> StreamingResponse:
        """Submit a job; answer its progress, its output in pieces, then its result, as JSON
        lines. One that is kept here is followed, not done twice.
        """
        spec, streams = await job_of(request, self._node), wants_stream(request)
        following, carrier = Following(streams=streams), self._node.carrier
        is_kept = await carrier.on_disk(partial(carrier.kept.has_or_will, spec))
        lines = (
            self._jobs.followed(spec.job_id, following) if is_kept else self._job(spec, following)
        )
        return StreamingResponse(json_lines(lines), media_type="application/x-ndjson")

    async def _job(self, spec: JobSpec, following: Following) -> AsyncIterator[Any]:
        """Yield the lines of one job; a client that goes away cancels it."""
        scope = trio.CancelScope()
        self._node.nursery.start_soon(self._submit, spec, following, scope)
        try:
            while not following.is_over:
                for line in await following.next_lines():
                    yield line
        finally:
            scope.cancel()

    async def _submit(self, spec: JobSpec, following: Following, scope: trio.CancelScope) -> None:
        with scope:
            try:
                result = await self._node.submissions.run(spec, following.listener)
            except CoveyError as error:
                following.failed(error)
            else:
                following.succeeded(result.output, summary_of(spec, result))


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
        "sandbox": (advert.sandbox or None) if advert else None,
    }
