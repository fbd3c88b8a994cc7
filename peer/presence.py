"""This peer in its mesh: reachable, greeting, advertised, and looking for others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import trio

from peer.addresses import PeerAddress, announced
from peer.adverts import Advertiser, Offering
from peer.directory import Directory
from peer.discovery import Candidate, Discovery
from peer.effects import Effects
from peer.feeds import Feeds
from peer.gatekeeper import Gatekeeper
from peer.hello import Greeter, Own
from peer.identity import Identity
from peer.instance import Instance
from peer.mdns import Mdns
from peer.neighbours import Neighbours
from peer.renewal import Renewer
from peer.revocations import Revocations
from peer.service import running
from protocols.hello import Standing
from protocols.keys import PeerId, public_key_of
from protocols.transport import open_transport


@dataclass(frozen=True, slots=True)
class Network:
    """Where a peer listens and how it looks for others."""

    host: str
    port: int
    bootstrap: tuple[str, ...]
    uses_mdns: bool


class Presence:
    """The parts that both daemons need to be peers, wired; ``started`` runs them.

    ``describe`` says what this peer offers; addresses are filled in here.
    """

    def __init__(
        self,
        identity: Identity,
        network: Network,
        feeds: Feeds,
        effects: Effects,
        describe: Callable[[], Offering],
    ) -> None:
        self.identity = identity
        self._network = network
        self._feeds = feeds
        self._describe = describe
        listen = f"/ip4/{network.host}/tcp/{network.port}"
        self.transport = open_transport(identity.key, [listen])
        mesh = identity.member.mesh
        self.revocations = Revocations.open(identity.home, mesh, effects)
        self.directory = Directory(mesh, identity.peer_id, effects, self.revocations)
        self.gatekeeper = Gatekeeper(self.transport, self.directory, identity)
        self.instance = Instance(identity, effects)
        own = Own(
            identity,
            lambda: announced(self.transport.addresses),
            self.instance,
            self._place,
            self._seen_in_feeds,
        )
        self.greeter = Greeter(self.transport, self.directory, own, effects)
        self.advertiser = Advertiser(
            self.transport, self.directory, identity, self._described, self.instance
        )
        self.instance.on_duplicate(feeds.stop_signing)
        self.instance.on_rival(self.advertiser.name_rival)
        self.discovery = Discovery(self.transport, self.greeter, self.directory, effects)
        self.neighbours = Neighbours(identity.home, self.directory)
        self.renewer = Renewer(
            identity, self.transport, self.directory, effects, self.advertiser.refresh
        )
        self.greeter.on_met(self.advertiser.met)
        self.greeter.on_met(self.neighbours.met)
        self.greeter.on_behind(self._rise_above)
        self.greeter.on_met(lambda _peer: feeds.allow_cutting())

    @asynccontextmanager
    async def started(self) -> AsyncGenerator[trio.Nursery]:
        """Listen, greet, advertise and look for others until the block ends."""
        for text in self._network.bootstrap:
            self.discovery.add(PeerAddress.parse(text), "configuration")
        for text in self.identity.member.bootstrap:
            self.discovery.add(PeerAddress.parse(text), "ticket")
        for found in self.neighbours:
            self.discovery.add(found, "memory")
        services = (
            self.transport,
            self.greeter,
            self.gatekeeper,
            self.advertiser,
            self.discovery,
            self.neighbours,
            self.renewer,
        )
        async with running(*(service.run for service in services)) as nursery:
            if self._network.uses_mdns:
                await nursery.start(partial(self._mdns().run, self.transport.addresses))
            yield nursery

    def report(self) -> dict[str, Any]:
        """Say which way of discovery found whom, and why one did not."""
        return {
            "methods": {
                "addresses": f"{len(self._network.bootstrap)} from the configuration, "
                f"{len(self.identity.member.bootstrap)} from the ticket",
                "mdns": f"on {self._network.host}" if self._network.uses_mdns else "off",
                "adverts": f"{len(self.directory)} peers known",
                "memory": f"{len(self.neighbours)} peers met, now or before",
                "identity": "ANOTHER INSTANCE of this key is running: nothing is signed, stop one"
                if self.instance.is_duplicate
                else "one instance of this key",
            },
            "peers": [self._found(candidate) for candidate in self.discovery],
        }

    def _mdns(self) -> Mdns:
        return Mdns(
            self.identity.peer_id,
            self.identity.member.mesh,
            lambda found: self.discovery.add(found, "mdns"),
        )

    def _place(self) -> tuple[int, int]:
        return self._feeds.place

    def _described(self) -> Offering:
        return replace(self._describe(), addresses=announced(self.transport.addresses))

    def _rise_above(self, seen: Standing) -> None:
        """Go on above what a neighbour saw of us: we lost a file, and what we say must win."""
        self._feeds.start_epoch_above(seen.epoch, seen.next_sequence)
        if seen.boot > self.identity.boot:
            self.identity.next_boot(above=seen.boot)
            self.advertiser.refresh()

    def _seen_in_feeds(self, peer_id: PeerId) -> Standing:
        place = self._feeds.last_seen(public_key_of(peer_id))
        return Standing(0, *place) if place else Standing()

    def _found(self, candidate: Candidate) -> dict[str, Any]:
        error = candidate.last_error
        is_up = candidate.peer_id in self.transport.connected()
        return {
            "peer": candidate.peer_id,
            "found_by": sorted(set(candidate.sources.values())),
            "addresses": candidate.addresses,
            "state": "connected" if is_up else "away",
            "last_error": None if error is None or is_up else error.message,
        }
