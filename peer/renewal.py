"""Renews this peer's certificate by itself, long before it ends.

At half-life (its own or its issuer's, for both must be valid) it asks the admitters that it knows,
showing the present certificate. Where the mesh's root key lies, that signs instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from peer.directory import Directory, Entry
from peer.durable import NotWrittenError
from peer.effects import Effects
from peer.identity import Identity, IdentityError, load_root_key
from peer.join import ask
from protocols.errors import Refused, RemoteProtocolError, TransportError
from protocols.join import RenewRequest, renewed
from protocols.keys import PeerId
from protocols.limits import RENEW_CHECK_S, RENEW_FIRST_S, RENEW_WARN_S
from protocols.membership import ADMITTER, Membership, issue
from protocols.transport import Transport

log = logging.getLogger(__name__)


class Renewer:
    """Keeps ``identity``'s membership valid; ``on_renewed`` is called after each new one is on
    disk.
    """

    def __init__(
        self,
        identity: Identity,
        transport: Transport,
        directory: Directory,
        effects: Effects,
        on_renewed: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._transport = transport
        self._directory = directory
        self._effects = effects
        self._on_renewed = on_renewed

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look every now and then whether it is time, until cancelled."""
        task_status.started()
        await trio.sleep(RENEW_FIRST_S * self._effects.rng.uniform(0.5, 1.0))
        while True:
            if is_due(self._identity.member, self._effects.now_us()):
                await self.renew()
            await trio.sleep(RENEW_CHECK_S * self._effects.rng.uniform(0.5, 1.0))

    async def renew(self) -> bool:
        """Get a membership that ends later, from our own root key or from an admitter; tell whether
        that went well. What one admitter does wrong is logged, and the next one asked.
        """
        try:
            return await self._renew()
        except (NotWrittenError, IdentityError) as error:  # there is half its life left to mend it
            log.error("certificate not renewed", extra={"why": error.message, "hint": error.hint})
            return False

    async def _renew(self) -> bool:
        if renew_by_root(self._identity, self._effects):
            self._on_renewed()
            return True
        for admitter in self._admitters():
            try:
                fresh = await self._ask(admitter)
            except (Refused, RemoteProtocolError, TransportError) as error:
                reason = {"peer": admitter.peer_id, "code": error.code, "why": error.message}
                log.info("certificate not renewed", extra=reason)
                continue
            if fresh.ends_us > self._identity.member.ends_us:
                self._save(fresh)
                return True
        self._warn()
        return False

    async def _ask(self, admitter: Entry) -> Membership:
        member = self._identity.member
        chain = member.certificate.encode(), member.issuer_certificate.encode()
        is_stranger = admitter.peer_id not in self._transport.connected()
        try:
            if is_stranger:
                await self._transport.dial(admitter.peer_id, list(admitter.addresses))
            request = RenewRequest(member.mesh, *chain)
            answer = await ask(self._transport, admitter.peer_id, request)
        finally:
            if is_stranger:
                await self._hang_up(admitter.peer_id)
        return renewed(member, answer, self._effects.now_us())

    async def _hang_up(self, peer_id: PeerId) -> None:
        if not self._transport.is_admitted(peer_id):  # discovery may have said hello meanwhile
            with trio.move_on_after(1.0, shield=True):
                await self._transport.disconnect(peer_id)

    def _admitters(self) -> list[Entry]:
        """Every admitter but us: those that we are connected to first."""
        known = [e for e in self._directory.with_role(ADMITTER) if e.peer_id != self._directory.own]
        self._effects.rng.shuffle(known)
        return sorted(known, key=lambda entry: not entry.is_connected)

    def _save(self, fresh: Membership) -> None:
        self._identity.save(fresh)
        log.info("certificate renewed", extra={"issuer": fresh.issuer_certificate.peer_id})
        self._on_renewed()

    def _warn(self) -> None:
        left_s = (self._identity.member.ends_us - self._effects.now_us()) // 1_000_000
        if left_s < RENEW_WARN_S:
            hint = "no admitter renews it: bring one up, or join again with a new ticket"
            log.warning("certificate ends soon", extra={"left_s": left_s, "hint": hint})


def is_due(member: Membership, now_us: int) -> bool:
    """Whether half of a membership's life is over."""
    return now_us >= member.renew_us


def renew_by_root(identity: Identity, effects: Effects) -> bool:
    """Sign our next certificate with the root key if it lies here; works for one that has expired.

    Tells whether it did. Raises ``CoveyError`` when the root key is unreadable, and
    ``NotWrittenError``.
    """
    member, root = identity.member, load_root_key(identity.home)
    if root is None or root.public != member.mesh:
        return False
    old = member.certificate
    certificate = issue(
        root,
        mesh=member.mesh,
        peer=old.peer,
        roles=old.roles,
        now_us=effects.now_us(),
        limits=old.limits,
    )
    identity.save(Membership(certificate, certificate, member.bootstrap))
    log.info("certificate renewed", extra={"issuer": "root"})
    return True
