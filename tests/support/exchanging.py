"""Peers in memory that hold feeds and exchange them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from peer.exchange import Exchange, Policy
from peer.feeds import Feeds
from peer.finder import Find
from peer.journal import Journal
from peer.tables import RecordPlace
from protocols.keys import SigningKey
from protocols.sought import made_in
from tests.support.feeds import bundles_of, effects, key, open_journal, record
from tests.support.memory import MemoryNetwork, MemoryTransport

OPEN = Policy(may_pull=lambda _: True, may_acknowledge=lambda _: True, may_seek=lambda _: True)
FOLLOWING = replace(OPEN, follows=True)


@dataclass
class Peer:
    """One running peer of the test."""

    key: SigningKey
    journal: Journal
    feeds: Feeds
    transport: MemoryTransport
    exchange: Exchange
    numbers: list[int] = field(default_factory=list)

    async def write(self, *numbers: int) -> None:
        """Record something and cut it."""
        for number in numbers:
            await self.feeds.append(record(self.key, number))
        await self.feeds.cut_all()


@dataclass
class Meeting:
    """A place for peers; each keeps its journal under ``folder`` across restarts."""

    folder: Path
    network: MemoryNetwork = field(default_factory=MemoryNetwork)

    @asynccontextmanager
    async def peer(self, number: int, policy: Policy = OPEN) -> AsyncGenerator[Peer]:
        """Run peer ``number`` until the block ends."""
        owner = key(number)
        journal = open_journal(self.folder / f"journal-{number}")
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(journal.run)
                feeds = Feeds(journal, owner, effects(number))
                transport = self.network.transport(owner)
                exchange = Exchange(transport, feeds, policy, find_in(feeds))
                transport.on_connection(exchange.connection_changed)
                for run in (transport.run, feeds.run, exchange.run):
                    await nursery.start(run)
                yield Peer(owner, journal, feeds, transport, exchange)
                nursery.cancel_scope.cancel()
        finally:
            journal.close()

    @asynccontextmanager
    async def peers(self, **policies: Policy) -> AsyncGenerator[list[Peer]]:
        """Run peers 1, 2, … with these policies."""
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(self.peer(number, policy))
                for number, policy in enumerate(policies.values(), 1)
            ]


def find_in(feeds: Feeds) -> Find:
    """Look records up in what is held, without an index; uncut ones stand at the end."""

    async def find(digests: Sequence[bytes]) -> list[RecordPlace]:
        await trio.lowlevel.checkpoint()
        wanted, found = set(digests), list[RecordPlace]()
        for bundle in bundles_of(feeds):
            header = bundle.header
            is_maker = header.feed == feeds.key.public and not wanted.isdisjoint(made_in(bundle))
            for at, digest in enumerate(header.digests):
                if digest in wanted or is_maker:
                    found.append(RecordPlace(header.feed, header.epoch, header.first_sequence + at))
        uncut = RecordPlace(feeds.key.public, feeds.epoch, feeds.next_sequence - 1)
        return found or ([uncut] if feeds.next_sequence else [])

    return find


async def meet(one: Peer, other: Peer) -> None:
    """Connect two peers as after a valid hello."""
    await one.transport.dial(other.transport.peer_id, other.transport.addresses)
    one.transport.admit(other.transport.peer_id)
    other.transport.admit(one.transport.peer_id)
    one.exchange.peer_up(other.transport.peer_id)
    other.exchange.peer_up(one.transport.peer_id)


async def until(condition: Callable[[], bool], within_s: float = 600.0) -> None:
    """Wait in virtual time for ``condition``."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - conditions span peers; time is virtual
            await trio.sleep(0.01)
