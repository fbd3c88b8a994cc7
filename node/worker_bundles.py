"""Keeps the signed records of the workers that did this node's jobs, beside its own.

A worker may be gone for good before any aggregator saw its records. So whoever a result came to
asks the worker, a few seconds later, for the bundles that hold the records of those jobs and its
certificate, and serves them with its own feed. Nobody's whole feed is followed for this.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio

from peer.dangling import Dangling, spread
from protocols.cid import CID
from protocols.feed import Bundle
from protocols.keys import PeerId
from protocols.limits import (
    MAX_DANGLING,
    MAX_SOUGHT,
    MAX_SOUGHT_OF_WORKER,
    SEEK_AFTER_S,
    SEEK_SPACING_S,
)
from protocols.outline import Outline, outline_verified
from protocols.record import INFORMED_BY, USED
from protocols.sought import made_in

log = logging.getLogger(__name__)

Seek = Callable[[PeerId, Sequence[bytes]], Awaitable[list[Bundle]]]
"""Asks a peer for the bundles of some records, which are kept and returned. Never raises."""

ShownBy = Callable[[PeerId], CID | None]
"""Names the record by which a peer shows its certificate; none where that is not known."""

MODEL: Final = "model"  # the role in which a run uses its model
ROUND_S: Final = 10 * SEEK_SPACING_S  # between questions to one worker, whatever the delays


class WorkerBundles:
    """What is still to be had from workers; ``named`` may be called before ``run``."""

    def __init__(self, own: PeerId, seek: Seek, shown_by: ShownBy = lambda _peer: None) -> None:
        """``shown_by`` tells which certificates to have along, by which others see whose records
        those are.
        """
        self._own = own
        self._shown_by = shown_by
        self._seek = seek
        self._sought = Dangling()
        self._named = trio.Event()
        self._waiting: Counter[PeerId] = Counter()
        """How many records of each worker are sought, about: counted anew after each round."""
        self._here: OrderedDict[bytes, None] = OrderedDict()
        """What came lately, by digest: every job of a worker stands on the same few things."""

    def named(self, worker: PeerId, record: CID) -> None:
        """A record of ours names one of a worker's."""
        if worker == self._own:
            return
        if self._waiting[worker] >= MAX_SOUGHT_OF_WORKER:
            self._sought.passed_over += 1  # a busy worker's records would cost more than its jobs
        else:
            self._waiting[worker] += 1
            due_at = trio.current_time() + SEEK_AFTER_S
            self._sought.want(record.digest, due_at, worker)
            shown = self._shown_by(worker)
            if shown is not None and shown.digest not in self._here:
                self._sought.want(shown.digest, due_at, worker)
            self._named.set()

    def status(self) -> dict[str, Any]:
        """Return how many records of workers are sought, have come, and were given up."""
        sought = self._sought
        return {
            "sought": len(sought),
            "found": sought.found,
            "tries": sought.tries,
            "given_up": sought.given_up + sought.passed_over,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask workers until cancelled."""
        task_status.started()
        while True:
            self._named = trio.Event()
            next_at = self._sought.next_at()
            if next_at is None:
                await self._named.wait()
                continue
            await trio.sleep_until(next_at)
            await self._ask_all()
            still = self._sought.due(math.inf)
            self._waiting = Counter({worker: len(its) for worker, its in still.items() if worker})
            await trio.sleep(ROUND_S)

    async def _ask_all(self) -> None:
        """Ask every worker of which something is due, one question each."""
        async with trio.open_nursery() as nursery:
            for worker, digests in self._sought.due(trio.current_time()).items():
                assert worker is not None, "named tells whose record it is"
                nursery.start_soon(self._ask, worker, spread(digests, MAX_SOUGHT))

    async def _ask(self, worker: PeerId, digests: list[bytes]) -> None:
        given_up = self._sought.given_up
        wanted = {*self._sought.due(math.inf).get(worker, ())}
        for bundle in await self._seek(worker, digests):
            self._take(worker, bundle, wanted)
            await trio.lowlevel.checkpoint()  # half a millisecond each, and up to 64
        self._sought.tried(digests, trio.current_time())
        if self._sought.given_up > given_up:
            log.warning("records of a worker were not to be had", extra={"peer": worker})

    def _take(self, worker: PeerId, bundle: Bundle, wanted: set[bytes]) -> None:
        """Tick off what a bundle holds, and want what the records of our jobs in it stand on."""
        named = zip(bundle.header.digests, bundle.records, strict=True)
        here = {digest for digest, record in named if record} | made_in(bundle)
        self._here.update(dict.fromkeys(here & wanted))
        while len(self._here) > MAX_DANGLING:
            self._here.popitem(last=False)
        self._sought.settle(here)
        for digest, record in zip(bundle.header.digests, bundle.records, strict=True):
            if record and digest in wanted:
                for need in needs_of(outline_verified(record)) - here - self._here.keys():
                    self._sought.want(need, trio.current_time(), worker)


def needs_of(record: Outline) -> set[bytes]:
    """Return what a worker's record stands on that the worker's own feed tells of: where it ran,
    what came before, and the model's registration.
    """
    blocks = [block for block in (record.environment, record.hardware) if block is not None]
    named = [
        target
        for direction, role, target in record.links
        if direction == INFORMED_BY or (direction == USED and role == MODEL)
    ]
    return {CID(cid).digest for cid in (*blocks, *named)}
