"""Peers in memory that hold feeds and exchange them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from peer.exchange import Exchange, Policy
from peer.feeds import Feeds
from peer.journal import Journal
from protocols.keys import PeerId, SigningKey
from tests.support.feeds import effects, key, open_journal, record
from tests.support.memory import MemoryNetwork, MemoryTransport

OPEN = Policy(may_pull=lambda _: True, may_acknowledge=lambda _: True)
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
                exchange = Exchange(transport, feeds, policy)
                transport.on_connection(partial(_connection_changed, exchange))
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


def _connection_changed(exchange: Exchange, peer_id: PeerId, is_up: bool) -> None:
    if not is_up:
        exchange.peer_down(peer_id)
