"""The control API about benchmarks: which ones make a suite, and how a repeated one came out. They
are run as jobs, by ``POST /run``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from starlette.responses import JSONResponse
from starlette.routing import Route

from node.api.requests import parse
from node.benchmarks.reading import one
from node.benchmarks.suite import SUITES, Planned, chosen, plan
from node.benchmarks.verdict import judge
from node.errors import InputError, UnknownError
from peer.cids import parse_cid
from protocols.cid import CID
from protocols.membership import WORKER

if TYPE_CHECKING:
    from starlette.requests import Request

    from node.daemon import Node
    from peer.directory import Entry
    from protocols.keys import PeerId


MEASURED_WITHIN_S: Final = 20.0  # a start measures for two to five seconds on a quiet machine


class PlanQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``GET /bench/plan`` wants: a worker, or all; without either, this node."""

    suite: str
    peer: str = ""
    all: bool = False
    kinds: str = ""
    """With commas; all if there is none."""


class VerdictBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``POST /bench/verdict`` wants: the records of a benchmark and of its repetition."""

    before: str
    after: str
    tolerance_percent: float


class BenchApi:
    """The handlers over one running node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._changed = trio.Event()
        node.presence.directory.on_change(self._mark)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/bench/plan", self.plan),
            Route("/bench/verdict", self.verdict, methods=["POST"]),
        ]

    async def plan(self, request: Request) -> JSONResponse:
        """The benchmarks of a suite, in the order in which to run them."""
        query = parse(dict(request.query_params), PlanQuery)
        if query.suite not in SUITES:
            raise InputError(
                f"there is no suite {query.suite!r}", hint=f"suites: {', '.join(SUITES)}"
            )
        entries = self._workers() if query.all else [self._worker(query.peer)]
        kinds = [kind for kind in query.kinds.split(",") if kind]
        await self._until_measured(entries)
        planned = [each for entry in entries for each in chosen(_plan(query.suite, entry), kinds)]
        if not planned:
            what = ", ".join(kinds) or "benchmark"
            raise UnknownError(
                f"there is nothing to measure: no {what} fits what these workers offer",
                hint="models of kind embed and generate are measured (covey models add), and the "
                "network of another node than this one (--peer, --all)",
            )
        return JSONResponse(msgspec.to_builtins(planned))

    async def verdict(self, request: Request) -> JSONResponse:
        """Whether a repeated benchmark came out as before; recorded."""
        body = parse(await request.json(), VerdictBody)
        if not 0 < body.tolerance_percent <= 1_000:
            raise InputError("a tolerance lies between 0 and 1000 percent")
        before, after = parse_cid(body.before), parse_cid(body.after)
        first, again = await self._row(before), await self._row(after)
        verdict = judge(first, again, body.tolerance_percent)
        cid = await self._node.ledger.judged(before, after, verdict)
        return JSONResponse({"cid": str(cid), **verdict})

    async def _row(self, cid: CID) -> dict[str, Any]:
        await self._node.index.catch_up()
        _, told = await self._node.index.ask(lambda store: one(store, cid))
        return told

    async def _until_measured(self, entries: list[Entry]) -> None:
        """Wait for workers that have just started: until their hardware is measured, they offer no
        models, and none would be planned for.
        """
        with trio.move_on_after(MEASURED_WITHIN_S):
            while any(map(_is_measuring, entries)):
                await self._changed.wait()

    def _mark(self, _peer: PeerId) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _workers(self) -> list[Entry]:
        workers = [entry for entry in self._node.presence.directory if _is_worker(entry)]
        if not workers:
            raise UnknownError("no worker is known here", hint="covey peers")
        return sorted(workers, key=lambda entry: (not entry.is_self, entry.peer_id))

    def _worker(self, peer: str) -> Entry:
        directory = self._node.presence.directory
        entry = directory.get(peer or self._node.identity.peer_id)
        if entry is None:
            raise UnknownError(f"{peer} is not known here", hint="covey peers shows who is")
        if not _is_worker(entry):
            who = f"{entry.peer_id} is" if peer else "this node is"
            raise InputError(f"{who} no worker", hint="name one with --peer, or take --all")
        return entry


def _is_measuring(entry: Entry) -> bool:
    """Whether a worker is here and has not said yet what its hardware does."""
    is_here = entry.is_self or entry.is_connected
    return is_here and (entry.advert is None or entry.advert.hardware is None)


def _is_worker(entry: Entry) -> bool:
    return WORKER in entry.certificate.roles


def _plan(suite: str, entry: Entry) -> list[Planned]:
    offers = entry.advert.models if entry.advert else ()
    return list(plan(suite, entry.peer_id, offers, is_self=entry.is_self))
