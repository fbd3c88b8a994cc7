"""Who is connected, by how many connections, and who of them said a valid hello."""

from __future__ import annotations

from collections.abc import Callable

import trio

from protocols.keys import PeerId
from protocols.limits import (
    ADMISSION_WAIT_S,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_PEER,
    MAX_STREAMS_BEFORE_HELLO,
    MAX_STREAMS_PER_PEER,
)
from protocols.transport.muxer import Muxer

PeerCallback = Callable[[PeerId, bool], None]


class Connections:
    """The table of live connections; whoever changes it tells the callbacks before anything else
    happens.
    """

    def __init__(self) -> None:
        self._by_peer: dict[PeerId, list[Muxer]] = {}
        self._admitted: set[PeerId] = set()
        self._admission = trio.Event()
        self._callbacks: list[PeerCallback] = []
        self._admission_callbacks: list[PeerCallback] = []

    @property
    def total(self) -> int:
        """The number of live connections."""
        return sum(len(muxers) for muxers in self._by_peer.values())

    def peers(self) -> set[PeerId]:
        """Who is connected."""
        return set(self._by_peer)

    def find(self, peer_id: PeerId) -> Muxer | None:
        """Return a live connection with this peer."""
        muxers = self._by_peer.get(peer_id)
        return muxers[0] if muxers else None

    def add(self, muxer: Muxer) -> bool:
        """Take in a connection, unless there are too many, of this peer or in all."""
        muxers = self._by_peer.get(muxer.peer_id, [])
        if len(muxers) >= MAX_CONNECTIONS_PER_PEER or self.total >= MAX_CONNECTIONS:
            return False
        self._by_peer[muxer.peer_id] = [*muxers, muxer]
        if not muxers:
            self._tell(self._callbacks, muxer.peer_id, True)
        return True

    def remove(self, muxer: Muxer) -> None:
        """Take out a connection that has ended; with a peer's last one its admission ends too."""
        muxers = self._by_peer.get(muxer.peer_id, [])
        if muxer not in muxers:
            return
        muxers.remove(muxer)
        if muxers:
            return
        del self._by_peer[muxer.peer_id]
        if muxer.peer_id in self._admitted:
            self._admitted.discard(muxer.peer_id)
            self._tell(self._admission_callbacks, muxer.peer_id, False)
        self._tell(self._callbacks, muxer.peer_id, False)

    def close(self, peer_id: PeerId) -> None:
        """Close every connection with this peer."""
        for muxer in list(self._by_peer.get(peer_id, [])):
            muxer.close()

    def admit(self, peer_id: PeerId) -> None:
        """Note a peer's valid hello."""
        if peer_id in self._by_peer and peer_id not in self._admitted:
            self._admitted.add(peer_id)
            self._admission.set()
            self._admission = trio.Event()
            self._tell(self._admission_callbacks, peer_id, True)

    def is_admitted(self, peer_id: PeerId) -> bool:
        """Whether this peer is connected and was admitted since."""
        return peer_id in self._admitted

    async def wait_admitted(self, peer_id: PeerId) -> bool:
        """Whether this peer is admitted, now or within a moment: its hello may be half a round trip
        behind on our side.
        """
        with trio.move_on_after(ADMISSION_WAIT_S):
            while peer_id in self._by_peer and peer_id not in self._admitted:
                await self._admission.wait()
        return peer_id in self._admitted

    def stream_limit(self, peer_id: PeerId) -> int:
        """How many streams this peer may hold open towards us on one connection."""
        return MAX_STREAMS_PER_PEER if peer_id in self._admitted else MAX_STREAMS_BEFORE_HELLO

    def on_change(self, callback: PeerCallback) -> None:
        """Call ``callback(peer, is_up)`` at a peer's first connection and after its last."""
        self._callbacks.append(callback)

    def on_admission(self, callback: PeerCallback) -> None:
        """Call ``callback(peer, is_admitted)`` when a peer is admitted and when that ends."""
        self._admission_callbacks.append(callback)

    def _tell(self, callbacks: list[PeerCallback], peer_id: PeerId, is_up: bool) -> None:
        for callback in callbacks:
            callback(peer_id, is_up)
