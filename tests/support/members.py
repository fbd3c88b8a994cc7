"""Meshes for tests: certificates without a join, and peers that can meet in memory."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from peer.adverts import Advertiser, Offering
from peer.directory import Directory
from peer.discovery import Discovery
from peer.effects import Effects
from peer.gatekeeper import Gatekeeper
from peer.hello import Greeter, Own
from peer.identity import Identity
from peer.instance import Instance
from peer.revocations import Revocations
from protocols.advert import LIFETIME_MS, Advert, SignedAdvert, sign_advert
from protocols.cid import CID
from protocols.keys import PeerId, SigningKey
from protocols.membership import ADMITTER, Certificate, Membership, issue
from tests.support.memory import MemoryNetwork, MemoryTransport

NOW_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000


@dataclass
class Clock:
    """A wall clock that tests set."""

    now_us: int = NOW_US

    def read(self) -> int:
        return self.now_us


def key_of(number: int) -> SigningKey:
    """The key of test peer ``number``."""
    return SigningKey.from_seed(number.to_bytes(32, "big"))


def effects_of(seed: int = 0, clock: Clock | None = None) -> Effects:
    """Seeded randomness and a clock that stands still unless a test moves it."""
    rng = random.Random(seed)
    return Effects(now_us=(clock or Clock()).read, token=rng.randbytes, rng=rng)


@dataclass
class TestMesh:
    """A root, its first admitter, and certificates for whoever needs one."""

    __test__ = False
    root: SigningKey = field(default_factory=lambda: key_of(1_000))
    admitter: SigningKey = field(default_factory=lambda: key_of(1_001))

    @property
    def admitter_certificate(self) -> Certificate:
        return issue(
            self.root,
            mesh=self.root.public,
            peer=self.admitter.public,
            roles=(ADMITTER,),
            now_us=NOW_US,
        )

    def membership(self, key: SigningKey, *roles: str, now_us: int = NOW_US) -> Membership:
        certificate = issue(
            self.admitter,
            mesh=self.root.public,
            peer=key.public,
            roles=roles or ("submitter", "worker"),
            now_us=now_us,
        )
        return Membership(certificate, self.admitter_certificate)

    def advert(
        self,
        key: SigningKey,
        *,
        boot: int = 1,
        sequence: int = 1,
        roles: tuple[str, ...] = ("worker",),
    ) -> SignedAdvert:
        advert = Advert(
            version=1,
            peer=key.public,
            boot=boot,
            sequence=sequence,
            lifetime_ms=LIFETIME_MS,
            addresses=(),
            roles=roles,
            hardware=CID.of(b"hardware"),
            capabilities={"cores": 2},
            models=(),
            software="covey 0",
        )
        return sign_advert(key, advert, self.membership(key))


@dataclass
class TestPeer:
    """One member with everything that it needs to meet others."""

    __test__ = False
    identity: Identity
    transport: MemoryTransport
    directory: Directory
    instance: Instance
    greeter: Greeter
    gatekeeper: Gatekeeper
    advertiser: Advertiser
    discovery: Discovery
    place: list[int]
    """Epoch and next sequence that it believes its feed to have."""
    seeks: bool = True
    """Whether it dials whom it knows; set before it runs."""

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.advertiser.run)
            await nursery.start(self.transport.run)
            await nursery.start(self.greeter.run)
            await nursery.start(self.gatekeeper.run)
            if self.seeks:
                await nursery.start(self.discovery.run)
            task_status.started()

    async def connect(self, other: TestPeer) -> None:
        await self.greeter.connect(other.peer_id, other.transport.addresses)

    def knows(self, other: TestPeer) -> bool:
        entry = self.directory.get(other.peer_id)
        return entry is not None and entry.advert is not None

    def has_met(self, other: TestPeer) -> bool:
        entry = self.directory.get(other.peer_id)
        return (
            entry is not None and entry.is_connected and self.transport.is_admitted(other.peer_id)
        )


def peer_of(
    network: MemoryNetwork,
    number: int,
    membership: Membership,
    clock: Clock | None = None,
    root: SigningKey | None = None,
    revocations: Revocations | None = None,
) -> TestPeer:
    """Peer ``number``, which does nothing until it runs; ``root`` if it holds the mesh's key."""
    identity = Identity(Path("/nowhere"), key_of(number), 1, membership)
    transport = network.transport(identity.key)
    effects = effects_of(number, clock)
    revocations = revocations or Revocations(membership.mesh, effects, root=root)
    directory = Directory(membership.mesh, identity.peer_id, effects, revocations)
    place = [1, 0]

    def where() -> tuple[int, int]:
        return place[0], place[1]

    def addresses() -> tuple[str, ...]:
        return tuple(transport.addresses)

    def describe() -> Offering:
        return Offering(roles=membership.roles, addresses=addresses(), software="covey 0")

    instance = Instance(identity, effects)
    own = Own(identity, addresses, instance, where)
    greeter = Greeter(transport, directory, own, effects)
    advertiser = Advertiser(transport, directory, identity, describe, instance)
    instance.on_rival(advertiser.name_rival)
    greeter.on_met(advertiser.met)
    discovery = Discovery(transport, greeter, directory, effects)
    return TestPeer(
        identity=identity,
        transport=transport,
        directory=directory,
        instance=instance,
        greeter=greeter,
        gatekeeper=Gatekeeper(transport, directory, identity),
        advertiser=advertiser,
        discovery=discovery,
        place=place,
    )


@asynccontextmanager
async def running(*peers: TestPeer) -> AsyncGenerator[None]:
    """Run these peers until the block ends."""
    async with trio.open_nursery() as nursery:
        for peer in peers:
            await nursery.start(peer.run)
        yield
        nursery.cancel_scope.cancel()
