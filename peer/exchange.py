"""Speaks ``/covey/feed/1``: serves the feeds that this peer holds, and pulls those of others.

Every peer serves. Only a peer that follows (an aggregator) pulls, from every admitted peer and for
as long as it is connected. What it pulls it serves in turn, so records reach an aggregator through
any peer that has them. What came twice is found held before anything costly happens, and nothing is
written about the exchange itself into any feed, so two aggregators that follow each other fall
silent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import trio

from peer.directory import Directory
from peer.feed_puller import FeedPuller
from peer.feed_server import NO_READER, FeedServer, Policy, Recent, refuse
from peer.feeds import Feeds
from peer.finder import Find, Finder, find_nothing
from peer.journal import JournalFullError
from peer.pace import Pace
from peer.seeker import Seeker
from protocols.errors import Refused, RemoteProtocolError, TransportError
from protocols.feed import Bundle
from protocols.keys import PeerId, public_key_of
from protocols.limits import (
    MAX_PULLS_PER_PEER,
    PULL_RETRY_S_MAX,
    PULL_RETRY_S_MIN,
    REFRESH_S,
)
from protocols.membership import ACKNOWLEDGEMENT, FEED_PROTOCOL, RECORD_BY_NAME
from protocols.sync import PROTOCOL, Refuse
from protocols.transport import Stream, Transport

__all__ = ["Exchange", "Policy", "policy_of"]

log = logging.getLogger(__name__)

_SURVIVED = (RemoteProtocolError, TransportError, JournalFullError, trio.TooSlowError)


def policy_of(directory: Directory, *, shares: bool = True, follows: bool = False) -> Policy:
    """Return the policy that the roles of a mesh's members make."""
    return Policy(
        may_pull=lambda peer: directory.may(peer, FEED_PROTOCOL),
        may_acknowledge=lambda peer: directory.may(peer, ACKNOWLEDGEMENT),
        may_seek=lambda peer: directory.may(peer, RECORD_BY_NAME),
        shares=shares,
        follows=follows,
    )


class Exchange:
    """Serves and follows feeds; ``peer_up`` and ``peer_down`` say whose connection to use."""

    def __init__(
        self, transport: Transport, feeds: Feeds, policy: Policy, find: Find = find_nothing
    ) -> None:
        """``find`` is where records that are asked for by name are looked up."""
        self._transport = transport
        self._feeds = feeds
        self._policy = policy
        self._followed: dict[PeerId, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._served: Counter[PeerId] = Counter()
        self._recent: dict[PeerId, Recent] = {}
        self._finder = Finder(feeds, find)
        self._answered: dict[PeerId, int] = {}
        self.pace = Pace()
        """How fast each author's records are taken in, and what came of that."""
        transport.serve(PROTOCOL, self._serve)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the peers that are up, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for peer_id, scope in self._followed.items():
                self._nursery.start_soon(self._follow, peer_id, scope)
            task_status.started()
            try:
                await self._replace_damaged()
            finally:
                self._nursery = None  # before it closes: peers are met until the greeter stops

    def peer_up(self, peer_id: PeerId) -> None:
        """An admitted peer is connected; calling again while it is changes nothing."""
        if not self._policy.follows or peer_id in self._followed:
            return
        if peer_id == self._transport.peer_id:
            return
        scope = self._followed[peer_id] = trio.CancelScope()
        if self._nursery is not None:
            self._nursery.start_soon(self._follow, peer_id, scope)

    def peer_down(self, peer_id: PeerId) -> None:
        """The last connection to a peer has ended."""
        self._recent.pop(peer_id, None)
        self._answered.pop(peer_id, None)
        self._finder.forget(peer_id)
        scope = self._followed.pop(peer_id, None)
        if scope is not None:
            scope.cancel()
            self._feeds.forget_gone(public_key_of(peer_id))

    def connection_changed(self, peer_id: PeerId, is_up: bool) -> None:
        """Forget a peer whose last connection has ended; for ``Transport.on_connection``."""
        if not is_up:
            self.peer_down(peer_id)

    async def refresh(self) -> None:
        """Have everyone that we follow sign and send what it has now, and return when it is here.

        A bundle waits up to ten seconds to be cut; whoever asks about a job of just now should not.
        Peers that do not answer within ``REFRESH_S`` are left out.
        """
        with trio.move_on_after(REFRESH_S):
            await self._pull_all()

    async def _replace_damaged(self) -> None:
        """Ask everyone that we follow whenever bundles turn out to be damaged here. Whoever comes
        later is asked then.
        """
        seen = 0
        while True:
            seen = await self._feeds.wait_quarantined(seen)
            await self._pull_all()

    async def _pull_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for peer_id in self._followed:
                nursery.start_soon(self._pull_once, peer_id)

    async def seek(self, peer_id: PeerId, digests: Sequence[bytes]) -> list[Bundle]:
        """Ask a peer for the bundles that hold these records, or the makers of these things among
        its own; keep and return them. None come when it does not answer.
        """
        return await self.ask(peer_id, digests) or []

    async def ask(self, peer_id: PeerId, digests: Sequence[bytes]) -> list[Bundle] | None:
        """Seek, and tell a peer that does not answer (none) from one that has nothing."""
        try:
            return await Seeker(self._transport, self._feeds, peer_id).run(digests)
        except (Refused, *_SURVIVED) as error:
            log.info("records not found", extra={"peer": peer_id, "reason": repr(error)})
            return None

    @property
    def followed(self) -> list[PeerId]:
        """The peers that are up and that we follow."""
        return list(self._followed)

    @property
    def answered(self) -> list[PeerId]:
        """The peers that are up and, when asked last, sent all that they had of what lacks here,
        that which turned out to be damaged included.
        """
        now = self._feeds.quarantined
        return [peer for peer, when in self._answered.items() if when == now]

    async def _pull_once(self, peer_id: PeerId) -> None:
        self._answered.pop(peer_id, None)
        asked_at = self._feeds.quarantined
        puller = self._puller(peer_id, follow=False)
        try:
            await puller.run()
            if puller.has_caught_up and peer_id in self._followed:
                self._answered[peer_id] = asked_at
        except* (Refused, *_SURVIVED) as errors:
            log.info("not refreshed", extra={"peer": peer_id, "reasons": _reasons(errors)})

    def _puller(self, peer_id: PeerId, *, follow: bool) -> FeedPuller:
        recent = self._recent_of(peer_id)
        puller = FeedPuller(self._transport, self._feeds, peer_id, recent, follow=follow)
        puller.pace = self.pace
        return puller

    # Serving

    async def _serve(self, stream: Stream) -> None:
        """Serve one puller; what it does wrong ends this stream and nothing else."""
        peer_id = stream.peer_id
        refusal = self._refusal(peer_id)
        self._served[peer_id] += 1
        try:
            if refusal is not None:
                await refuse(stream, refusal)
            else:
                recent = self._recent_of(peer_id)
                await FeedServer(stream, self._feeds, self._policy, recent, self._finder).run()
        except* _SURVIVED as errors:
            log.info("stopped serving feeds", extra={"peer": peer_id, "reasons": _reasons(errors)})
            await stream.reset()
        finally:
            self._served[peer_id] -= 1

    def _refusal(self, peer_id: PeerId) -> Refuse | None:
        if not self._policy.may_seek(peer_id) and not self._policy.may_pull(peer_id):
            return NO_READER
        if self._served[peer_id] >= MAX_PULLS_PER_PEER:
            return Refuse("too-many-pulls", f"at most {MAX_PULLS_PER_PEER} at a time")
        return None

    def _recent_of(self, peer_id: PeerId) -> Recent:
        return self._recent.setdefault(peer_id, Recent())

    # Following

    async def _follow(self, peer_id: PeerId, scope: trio.CancelScope) -> None:
        with scope:
            retry_s = PULL_RETRY_S_MIN
            while True:
                puller = self._puller(peer_id, follow=True)
                try:
                    await self._run(puller, peer_id)
                except* Refused as refusals:
                    log.info(
                        "feeds refused", extra={"peer": peer_id, "reasons": _reasons(refusals)}
                    )
                    retry_s = PULL_RETRY_S_MAX
                except* _SURVIVED as errors:
                    reasons = _reasons(errors)
                    log.info("stopped following", extra={"peer": peer_id, "reasons": reasons})
                retry_s = PULL_RETRY_S_MIN if puller.has_caught_up else retry_s
                await trio.sleep(retry_s * self._feeds.effects.rng.uniform(0.5, 1.0))
                retry_s = min(2 * retry_s, PULL_RETRY_S_MAX)

    async def _run(self, puller: FeedPuller, peer_id: PeerId) -> None:
        """Follow on one stream; what is left out there for its author's haste comes on others."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._make_up, puller, peer_id)
            await puller.run()
            nursery.cancel_scope.cancel()

    async def _make_up(self, puller: FeedPuller, peer_id: PeerId) -> None:
        while True:
            await puller.left_out.wait()
            puller.left_out = trio.Event()
            await self._pull_once(peer_id)
            await trio.sleep(PULL_RETRY_S_MIN)


def _reasons(errors: BaseExceptionGroup[BaseException]) -> list[str]:
    return [repr(error) for error in errors.exceptions]
