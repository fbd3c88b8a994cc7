"""Finding peers and staying connected: a dial loop over every address that anybody told us.

Addresses come from configuration, the ticket, adverts, mDNS and the memory of an earlier run. A
peer that does not answer is tried again later and later, with jitter, for as long as somebody names
it. How each peer was found and why the last dial failed is kept for ``covey doctor``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import trio

from peer.addresses import PeerAddress
from peer.directory import Directory
from peer.effects import Effects
from peer.hello import Greeter
from protocols.errors import CoveyError, TransportError
from protocols.hello import ANOTHER_INSTANCE
from protocols.keys import PeerId
from protocols.limits import (
    DIAL_BACKOFF_MAX_S,
    DIAL_BACKOFF_S,
    MAX_ADDRESSES,
    MAX_DIAL_CANDIDATES,
    MAX_NEIGHBOURS,
    MAX_PARALLEL_DIALS,
)
from protocols.transport import Transport

log = logging.getLogger(__name__)

Source = Literal["configuration", "ticket", "mdns", "advert", "memory"]
LASTING: Final[frozenset[Source]] = frozenset({"configuration", "ticket"})
"""Sources that a person chose: dialled first, and never given up."""
MUTUAL: Final[frozenset[Source]] = frozenset({"mdns", "advert"})
"""Sources from which both sides hear of each other at the same moment."""

MAX_FAILURES: Final = 20  # about a quarter of an hour; who comes back after that finds us
STABLE_S: Final = 30.0  # a connection that lasted so long is no failure when it ends


@dataclass(slots=True)
class Candidate:
    """A peer that may be dialled: where, who said so, and how it went. Read it only."""

    peer_id: PeerId
    sources: dict[str, Source] = field(default_factory=dict[str, Source])
    """Each address, by the source that named it first."""
    failures: int = 0
    next_dial: float = 0.0
    """In ``trio.current_time``."""
    connected_since: float | None = None
    is_dialling: bool = False
    last_error: CoveyError | None = None

    @property
    def is_lasting(self) -> bool:
        """Whether a person named it."""
        return not LASTING.isdisjoint(self.sources.values())

    @property
    def addresses(self) -> list[str]:
        """Its addresses, those that a person named first."""
        return sorted(self.sources, key=lambda address: self.sources[address] not in LASTING)


class Discovery:
    """Dials whom we know and are not connected to, up to ``MAX_NEIGHBOURS`` connections."""

    def __init__(
        self, transport: Transport, greeter: Greeter, directory: Directory, effects: Effects
    ) -> None:
        self._transport = transport
        self._greeter = greeter
        self._directory = directory
        self._effects = effects
        self._candidates: dict[PeerId, Candidate] = {}
        self._wake = trio.Event()
        transport.on_connection(self._connection_changed)
        directory.on_change(self._directory_changed)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(list(self._candidates.values()))

    def add(self, found: PeerAddress, source: Source) -> None:
        """Take in where a peer may be dialled; our own address and repetitions do no harm."""
        if found.peer_id == self._directory.own:
            return
        candidate = self._candidates.get(found.peer_id)
        if candidate is None:
            candidate = self._new_candidate(found.peer_id, source)
        if candidate is None or found.address in candidate.sources:
            return
        if len(candidate.sources) >= MAX_ADDRESSES:
            candidate.sources.pop(candidate.addresses[-1])
        candidate.sources[found.address] = source
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Dial until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._wake = trio.Event()
                for candidate in self._due()[: self._room()]:
                    candidate.is_dialling = True
                    nursery.start_soon(self._dial, candidate)
                with trio.move_on_at(self._next_due()):
                    await self._wake.wait()

    async def _dial(self, candidate: Candidate) -> None:
        """Try a peer once; whatever it does wrong is noted with it."""
        try:
            await self._greeter.connect(candidate.peer_id, candidate.addresses)
        except CoveyError as error:
            self._failed(candidate, error)
        else:
            candidate.last_error = None
            log.info(
                "peer connected",
                extra={"peer": candidate.peer_id, "found": sorted(set(candidate.sources.values()))},
            )
        finally:
            candidate.is_dialling = False
            self._wake.set()

    def _failed(self, candidate: Candidate, error: CoveyError) -> None:
        candidate.last_error = error
        candidate.failures += 1
        delay_s = self._backoff(candidate.failures)
        is_final = not isinstance(error, TransportError) and error.code != ANOTHER_INSTANCE
        if is_final:  # a no is not different a second later
            delay_s = DIAL_BACKOFF_MAX_S
        candidate.next_dial = trio.current_time() + delay_s
        log.info(
            "dial failed",
            extra={"peer": candidate.peer_id, "code": error.code, "why": error.message},
        )
        self._directory_changed(candidate.peer_id)  # its advert may have expired meanwhile
        is_hopeless = candidate.failures >= MAX_FAILURES or not candidate.sources
        if is_hopeless and not candidate.is_lasting:
            self._candidates.pop(candidate.peer_id, None)

    def _backoff(self, failures: int) -> float:
        longest_s = min(DIAL_BACKOFF_MAX_S, DIAL_BACKOFF_S * 2 ** min(failures - 1, 16))
        return longest_s * self._effects.rng.uniform(0.5, 1.0)

    def _due(self) -> list[Candidate]:
        """Who may be dialled now: those that a person named first, the others in random order."""
        now = trio.current_time()
        due = [candidate for candidate in self._idle() if candidate.next_dial <= now]
        self._effects.rng.shuffle(due)
        return sorted(due, key=lambda candidate: not candidate.is_lasting)

    def _idle(self) -> Iterator[Candidate]:
        connected = self._transport.connected()
        for candidate in self:
            is_free = bool(candidate.sources) and not candidate.is_dialling
            is_out = self._directory.revocations.is_barred(candidate.peer_id)
            if is_free and not is_out and candidate.peer_id not in connected:
                yield candidate

    def _room(self) -> int:
        """How many dials may start; strangers that are connected without a hello take no place."""
        dialling = sum(candidate.is_dialling for candidate in self)
        neighbours = sum(map(self._transport.is_admitted, self._transport.connected()))
        return max(0, min(MAX_PARALLEL_DIALS - dialling, MAX_NEIGHBOURS - neighbours - dialling))

    def _next_due(self) -> float:
        """When to look again if nothing happens; a free place or a new address wakes us."""
        if not self._room():
            return math.inf
        return min((candidate.next_dial for candidate in self._idle()), default=math.inf)

    def _new_candidate(self, peer_id: PeerId, source: Source) -> Candidate | None:
        if len(self._candidates) >= MAX_DIAL_CANDIDATES and source not in LASTING:
            return None
        candidate = self._candidates[peer_id] = Candidate(peer_id)
        if source in MUTUAL and peer_id < self._directory.own:
            # The smaller id dials now, we soon after.
            candidate.next_dial = trio.current_time() + self._backoff(1)
        return candidate

    def _directory_changed(self, peer_id: PeerId) -> None:
        """Follow a peer's advert: its addresses are candidates while it lives, and no longer."""
        entry = self._directory.get(peer_id)
        addresses = entry.addresses if entry else ()
        self._forget_adverts(peer_id, addresses)
        for address in addresses:
            self.add(PeerAddress(peer_id, address), "advert")

    def _forget_adverts(self, peer_id: PeerId, current: tuple[str, ...]) -> None:
        candidate = self._candidates.get(peer_id)
        if candidate is not None:
            for address, source in list(candidate.sources.items()):
                if source == "advert" and address not in current:
                    del candidate.sources[address]

    def _connection_changed(self, peer_id: PeerId, is_up: bool) -> None:
        candidate = self._candidates.get(peer_id)
        if candidate is not None and is_up:
            candidate.connected_since = trio.current_time()
        elif candidate is not None:
            self._lost(candidate)
        self._wake.set()

    def _lost(self, candidate: Candidate) -> None:
        """Dial again soon after a stable connection, and ever later while they keep breaking."""
        now = trio.current_time()
        since, candidate.connected_since = candidate.connected_since, None
        if candidate.is_dialling:  # the failure of its hello is counted where it is caught
            return
        was_stable = since is not None and now - since >= STABLE_S
        candidate.failures = 1 if was_stable else candidate.failures + 1
        candidate.next_dial = max(candidate.next_dial, now + self._backoff(candidate.failures))
