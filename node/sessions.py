"""The open sessions of this node: at most one that is used with each peer, opened on demand and
used both ways. A peer that is not connected is dialled and greeted at once, whatever discovery has
planned for it.

Whoever needs a peer first opens the session. When two nodes open one to each other at the same
moment, both live, and each side starts new jobs on the one that it had first. Idle sessions make
room for new ones.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVarTuple

import trio

from node.ledger import JobLedger
from node.link import SessionLink
from node.loopback import loopback_pair
from peer.directory import Directory
from protocols.errors import (
    CoveyError,
    PeerUnreachableError,
    Refused,
    RemoteProtocolError,
    TransportError,
)
from protocols.job import JobMessage
from protocols.keys import PeerId
from protocols.limits import MAX_INBOUND_SESSIONS, MAX_NEIGHBOURS, MAX_SESSIONS, SESSION_OPEN_S
from protocols.membership import SESSION_PROTOCOL
from protocols.transport import Stream, Transport

Ts = TypeVarTuple("Ts")

MessageHandler = Callable[[SessionLink, Any], None]
LostHandler = Callable[[SessionLink], None]
Connect = Callable[[PeerId, list[str]], Awaitable[None]]
"""Dials a peer and says hello: what ``Greeter.connect`` does, and raises."""

CROWDED_SESSIONS: Final = MAX_SESSIONS * 3 // 4  # with jobs: the rest is for offers under way
CONNECTIONS_KEPT: Final = MAX_NEIGHBOURS + MAX_SESSIONS
"""From so many on, a connection goes with the session that makes room: a thousand workers that are
used one after the other would each leave one open.
"""
SESSIONS_FULL: Final = "sessions-full"

log = logging.getLogger(__name__)


class Sessions:
    """Opens, serves and ends sessions, and hands their messages to whom they concern."""

    def __init__(
        self, transport: Transport, connect: Connect, directory: Directory, ledger: JobLedger
    ) -> None:
        self._transport = transport
        self._connect = connect
        self._directory = directory
        self._ledger = ledger
        self._links: dict[PeerId, list[SessionLink]] = {}
        self._handlers: dict[type[JobMessage], MessageHandler] = {}
        self._lost_handlers: list[LostHandler] = []
        self._opening: dict[PeerId, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None
        transport.serve(SESSION_PROTOCOL, self._serve)

    @property
    def own(self) -> PeerId:
        """This node's peer."""
        return self._transport.peer_id

    def subscribe(
        self,
        kinds: Iterable[type[JobMessage]],
        on_message: MessageHandler,
        on_lost: LostHandler,
    ) -> None:
        """Have messages of these kinds, and the end of every session, told to these; they must
        not block.
        """
        self._handlers |= dict.fromkeys(kinds, on_message)
        self._lost_handlers.append(on_lost)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry the sessions until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # before it closes: peers' sessions end later than ours

    def start_soon(self, act: Callable[[*Ts], Awaitable[Any]], *args: *Ts) -> None:
        """Run something that outlives a job but not this node's sessions, such as writing a
        report; it is left out when they have stopped.
        """
        if self._nursery is not None:
            self._nursery.start_soon(act, *args)

    def current(self, peer: PeerId) -> SessionLink | None:
        """Return the session with ``peer`` on which new jobs start, if one is open."""
        return next((link for link in self._links.get(peer, ()) if link.is_open), None)

    def open_count(self) -> int:
        """Return how many sessions are open."""
        return sum(len(links) for links in self._links.values())

    def crowded(self) -> list[PeerId]:
        """Return the peers with a session if most sessions have jobs, so that there is hardly room
        for another; else nobody.
        """
        open_links = [link for links in self._links.values() for link in links if link.is_open]
        busy = sum(bool(link.jobs) for link in open_links)
        return [link.peer_id for link in open_links] if busy >= CROWDED_SESSIONS else []

    async def open(self, peer: PeerId) -> SessionLink:
        """Return the session with ``peer``, opening it if need be; raise ``TransportError``
        within ``SESSION_OPEN_S``.
        """
        if link := self.current(peer):
            return link
        if self._nursery is None:
            raise TransportError("this node is starting or stopping", code="not-running")
        lock = self._opening.setdefault(peer, trio.Lock())
        try:
            with trio.fail_after(SESSION_OPEN_S):
                async with lock:
                    return self.current(peer) or await self._open(peer)
        except trio.TooSlowError as error:
            raise PeerUnreachableError(
                f"no session with {peer} within {SESSION_OPEN_S:.0f} s", peer=peer
            ) from error
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._opening.pop(peer, None)

    async def flush(self) -> None:
        """Wait until everything that was queued so far is on its way."""
        for link in [link for links in self._links.values() for link in links]:
            await link.flush()

    async def _open(self, peer: PeerId) -> SessionLink:
        self._make_room()
        if peer == self._transport.peer_id:
            near, far = loopback_pair(peer)
            link = self._adopt(near)
            self._adopt(far)
            return link
        if not self._transport.is_admitted(peer):
            await self._reach(peer)
        return self._adopt(await self._transport.open_stream(peer, SESSION_PROTOCOL))

    async def _reach(self, peer: PeerId) -> None:
        """Connect to a peer that serves us nothing yet."""
        entry = self._directory.get(peer)
        try:
            await self._connect(peer, list(entry.addresses) if entry else [])
        except (Refused, RemoteProtocolError) as error:
            raise PeerUnreachableError(
                f"no hello with {peer}: {error.message}", peer=peer
            ) from error

    def _adopt(self, stream: Stream) -> SessionLink:
        link = self._register(stream)
        self.start_soon(self._carry, link)
        return link

    async def _serve(self, stream: Stream) -> None:
        """Carry a session that a peer opened, if it may."""
        if not self._directory.may(stream.peer_id, SESSION_PROTOCOL):
            log.info("session refused", extra={"peer": stream.peer_id, "reason": "role"})
            await stream.reset()
            return
        try:
            self._check_share(stream.peer_id)
            self._make_room()
        except TransportError as error:
            log.warning("session refused", extra={"peer": stream.peer_id, "reason": str(error)})
            await stream.reset()
            return
        link = self._register(stream)
        link.is_inbound = True
        await self._carry(link)

    def _check_share(self, peer: PeerId) -> None:
        """Raise ``TransportError`` if a peer has opened as many sessions as it may, the ending ones
        included.
        """
        inbound = sum(link.is_inbound for link in self._links.get(peer, ()))
        if inbound >= MAX_INBOUND_SESSIONS:
            raise TransportError(
                f"it has {inbound} sessions", code=SESSIONS_FULL, limit=MAX_INBOUND_SESSIONS
            )

    def _register(self, stream: Stream) -> SessionLink:
        link = SessionLink(stream, self._dispatch)
        self._links.setdefault(link.peer_id, []).append(link)
        return link

    def _dispatch(self, link: SessionLink, message: JobMessage) -> None:
        handler = self._handlers.get(type(message))
        if handler is not None:  # a submitter without the worker's part ignores offers
            handler(link, message)

    async def _carry(self, link: SessionLink) -> None:
        """Run one session to its end: the boundary of what goes wrong in it."""
        try:
            await link.run()
        except Exception as error:  # noqa: BLE001 - the session boundary: it ends this session only
            link.why_ended = "this node made a mistake"
            await self._ledger.report(error)
        finally:
            self._forget(link)
        if link.error is not None:
            await self._ledger.report(link.error)
        log.info("session ended", extra={"peer": link.peer_id, "reason": link.why_ended})

    def _forget(self, link: SessionLink) -> None:
        links = self._links[link.peer_id]
        links.remove(link)
        if not links:
            del self._links[link.peer_id]
        for on_lost in self._lost_handlers:
            on_lost(link)

    def _make_room(self) -> None:
        """End the session that was idle longest when there are as many as may be."""
        if self.open_count() < MAX_SESSIONS:
            return
        links = [link for links in self._links.values() for link in links]
        idle = [link for link in links if not link.jobs and not link.has_unsent and link.is_open]
        if not idle:
            raise TransportError(
                f"all {MAX_SESSIONS} sessions have jobs", code=SESSIONS_FULL, limit=MAX_SESSIONS
            )
        idlest = min(idle, key=lambda link: link.used_at)
        idlest.close("another session needs the room")
        is_needed = any(link.jobs for link in self._links[idlest.peer_id])
        if len(self._transport.connected()) >= CONNECTIONS_KEPT and not is_needed:
            self.start_soon(self._transport.disconnect, idlest.peer_id)


def why(error: CoveyError) -> str:
    """Return what an error says, with what was tried at each address if it knows."""
    attempts: dict[str, str] = error.details.get("attempts") or {}
    told = "; ".join(f"{address}: {reason}" for address, reason in attempts.items())
    return f"{error.message} ({told})" if told else error.message
