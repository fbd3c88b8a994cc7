"""Our own advert: signed and gossiped on every change and every ten minutes; and the check of
everybody else's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from peer.directory import Directory
from peer.identity import Identity
from peer.instance import Instance
from protocols.advert import LIFETIME_MS, Advert, ModelOffer, SignedAdvert, sign_advert
from protocols.cid import CID
from protocols.errors import CoveyError, RemoteProtocolError
from protocols.keys import PeerId
from protocols.limits import (
    ADVERT_GAP_S,
    ADVERT_PERIOD_S,
    ADVERTS_PER_S_PER_PEER,
    MAX_ADDRESSES,
    MAX_ADVERT_BYTES,
    MAX_CONNECTIONS,
)
from protocols.membership import advert_topic
from protocols.transport import Transport
from protocols.transport.rate import RateLimiter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offering:
    """What this peer has to say of itself right now."""

    roles: tuple[str, ...]
    addresses: tuple[str, ...]
    software: str
    hardware: CID | None = None
    capabilities: dict[str, Any] = field(default_factory=dict[str, Any])
    models: tuple[ModelOffer, ...] = ()
    sandbox: str = ""


class Advertiser:
    """Publishes our advert and learns those of others; register it before the transport runs.

    ``describe`` is asked at each publication. Adverts carry the identity's boot counter and a
    sequence of their own, so the latest one wins whatever way it takes.
    """

    def __init__(
        self,
        transport: Transport,
        directory: Directory,
        identity: Identity,
        describe: Callable[[], Offering],
        instance: Instance,
    ) -> None:
        self._instance = instance
        self._transport = transport
        self._directory = directory
        self._identity = identity
        self._describe = describe
        self._sequence = 0
        self._wanted = trio.Event()
        self._was_alone = True
        self._limiters: dict[PeerId, RateLimiter] = {}
        self._topic: Final = advert_topic(directory.mesh)
        transport.subscribe(self._topic, self._is_valid, self._learn)

    def met(self, peer_id: PeerId) -> None:
        """Take note of a hello: what we published while we were alone has reached nobody."""
        if self._was_alone:
            self._was_alone = False
            self.refresh()

    def refresh(self) -> None:
        """Publish soon: something that ``describe`` tells has changed. Many calls in a burst make
        one advert.
        """
        self._wanted.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish until cancelled; when it has started, our advert is in the directory, so every
        hello shows it.
        """
        self._renew()
        task_status.started()
        while True:
            await self._publish()
            with trio.move_on_after(ADVERT_PERIOD_S):
                await self._wanted.wait()
            await trio.sleep(ADVERT_GAP_S)
            if not self._instance.is_duplicate:  # then the last one, which says so, is signed
                self._renew()

    def name_rival(self) -> None:
        """Sign at once that there is another instance, so that our next hello shows it, and gossip
        it too.
        """
        self.refresh()  # wakes the loop that waits now; renewing starts a new wait
        self._renew()

    def _renew(self) -> None:
        """Sign what we have to say now and put it into the directory."""
        self._wanted = trio.Event()
        self._sequence += 1
        offering = self._describe()
        advert = Advert(
            version=1,
            peer=self._identity.key.public,
            boot=self._identity.boot,
            sequence=self._sequence,
            lifetime_ms=LIFETIME_MS,
            addresses=offering.addresses[:MAX_ADDRESSES],
            roles=tuple(sorted(set(offering.roles))),
            hardware=offering.hardware,
            capabilities=offering.capabilities,
            models=offering.models,
            software=offering.software,
            instance=self._instance.id,
            rival=self._instance.rival,
            sandbox=offering.sandbox,
        )
        signed = sign_advert(self._identity.key, advert, self._identity.member)
        self._directory.advertise(signed)

    async def _publish(self) -> None:
        entry = self._directory.get(self._directory.own)
        if entry is None or entry.signed_advert is None:
            return
        self._was_alone = not self._transport.connected()
        if not await self._transport.publish(self._topic, entry.signed_advert.encode()):
            log.info("advert not gossiped", extra={"sequence": self._sequence})

    def _is_valid(self, peer_id: PeerId, payload: bytes) -> bool:
        """Whether gossip may pass ``payload`` on: cheap checks first, and nothing escapes, for an
        exception here would end the node.
        """
        if len(payload) > MAX_ADVERT_BYTES or not self._limiter(peer_id).take(trio.current_time()):
            return False
        try:
            signed = SignedAdvert.decode(payload)
            # What a hello brought us already may still be news to our other neighbours.
            if self._directory.is_stale(signed.advert):
                return False
            self._directory.verify(signed)
        except CoveyError:
            return False
        return True

    def _learn(self, peer_id: PeerId, payload: bytes) -> None:
        try:
            self._directory.learn(SignedAdvert.decode(payload))
        except RemoteProtocolError as error:
            log.info("advert ignored", extra={"peer": peer_id, "code": error.code})

    def _limiter(self, peer_id: PeerId) -> RateLimiter:
        limiter = self._limiters.get(peer_id)
        if limiter is None:
            if len(self._limiters) >= MAX_CONNECTIONS:  # only peers that are gone make it so many
                self._limiters.clear()
            limiter = self._limiters[peer_id] = RateLimiter(ADVERTS_PER_S_PER_PEER)
        return limiter
