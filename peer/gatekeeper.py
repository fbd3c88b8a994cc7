"""Puts out whoever is no member any more, and spreads the list that says so.

A new list is gossiped by everybody who learns it, twice, since gossip may lose a message; whoever
is not connected then gets it with the next hello. Streams, sessions and gossip end with the
connection, so closing it is all that it takes. A certificate that expires on a living connection
closes it too.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from peer.directory import Directory
from peer.identity import Identity
from protocols.errors import RemoteProtocolError
from protocols.keys import PeerId
from protocols.limits import MAX_REVOCATIONS_BYTES, MEMBERS_CHECK_S, REVOCATION_REPEAT_S
from protocols.membership import REVOCATIONS, revocation_topic
from protocols.revocation import RevocationList
from protocols.transport import Transport

log = logging.getLogger(__name__)


class Gatekeeper:
    """Keeps connections to members only; register it before the transport runs."""

    def __init__(self, transport: Transport, directory: Directory, identity: Identity) -> None:
        self._transport = transport
        self._directory = directory
        self._identity = identity
        self._revocations = directory.revocations
        self._topic: Final = revocation_topic(directory.mesh)
        self._woken = trio.Event()
        self._has_news = False
        transport.subscribe(self._topic, self._is_valid, self._learn)
        self._contradicted: set[PeerId] = set()
        self._revocations.on_change(self._hear)
        directory.on_change(self._look_at)

    @property
    def is_revoked(self) -> bool:
        """Whether the mesh put us out ourselves."""
        member = self._identity.membership
        return member is not None and self._revocations.holds(
            member.certificate, member.issuer_certificate
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Spread lists and close connections until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                with trio.move_on_after(MEMBERS_CHECK_S):
                    await self._woken.wait()
                self._woken = trio.Event()
                if self._has_news:
                    self._has_news = False
                    if self.is_revoked:
                        log.error("this peer was revoked", extra={"hint": "join as a new peer"})
                    await self._publish()
                    nursery.start_soon(self._repeat, self._revocations.version)
                await self._put_out()

    def _hear(self) -> None:
        self._has_news = True
        self._woken.set()

    async def _publish(self) -> None:
        encoded = self._revocations.encoded
        if encoded is not None and not await self._transport.publish(self._topic, encoded):
            log.warning("revocations not gossiped", extra={"version": self._revocations.version})

    async def _repeat(self, version: int) -> None:
        await trio.sleep(REVOCATION_REPEAT_S)
        if version == self._revocations.version:
            await self._publish()

    async def _put_out(self) -> None:
        """Close the connections with peers that have no role any more. Strangers are the greeter's
        business.
        """
        async with trio.open_nursery() as nursery:
            for peer_id in self._transport.connected():
                is_member = bool(self._directory.roles(peer_id))
                is_double = peer_id in self._contradicted
                if self._transport.is_admitted(peer_id) and (is_double or not is_member):
                    log.info("peer put out", extra={"peer": peer_id, "is_double": is_double})
                    nursery.start_soon(self._transport.disconnect, peer_id)
        self._contradicted.clear()

    def _look_at(self, peer_id: PeerId) -> None:
        """Have a peer say hello again, and hear of it, when another run of its key advertises."""
        entry = self._directory.get(peer_id)
        if entry is not None and entry.is_contradicted:
            self._contradicted.add(peer_id)
            self._woken.set()

    def _is_valid(self, peer_id: PeerId, payload: bytes) -> bool:
        """Whether gossip may pass ``payload`` on: only what is newer than ours, so that it ends."""
        is_welcome = self._directory.may(peer_id, REVOCATIONS)
        if not is_welcome or len(payload) > MAX_REVOCATIONS_BYTES:
            return False
        try:
            shown = RevocationList.decode(payload)
            if self._revocations.is_news(shown):
                shown.verify(self._directory.mesh)
                return True
        except RemoteProtocolError:
            log.debug("revocations not passed on", extra={"peer": peer_id})
        return False

    def _learn(self, peer_id: PeerId, payload: bytes) -> None:
        try:
            self._revocations.learn(payload)
        except RemoteProtocolError as error:
            log.info("revocations ignored", extra={"peer": peer_id, "code": error.code})
