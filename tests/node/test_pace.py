"""One author floods, the others are heard all the same, and nothing is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from protocols.feed import Bundle
from protocols.keys import SigningKey
from tests.bench.figure import percentile
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, Peer, meet, until
from tests.support.feeds import after, bundle, key

RATE, BURST = 100, 200
FLOODER, HONEST = key(50), key(51)
FLOOD_BUNDLES, K = 40, 20
"""800 records at once: six seconds' worth past the burst."""


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let limits be small, so that few records are a flood."""
    monkeypatch.setattr("peer.pace.AUTHOR_RECORDS_PER_S", RATE)
    monkeypatch.setattr("peer.pace.AUTHOR_BURST_RECORDS", BURST)


def chain(author: SigningKey, length: int, count: int) -> list[Bundle]:
    bundles = [bundle(author, count=count)]
    while len(bundles) < length:
        bundles.append(after(bundles[-1], count, author=author))
    return bundles


async def test_honest_authors_are_acknowledged_while_another_floods(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(flood=OPEN, honest=OPEN, aggregator=FOLLOWING) as peers:
        flood, honest, aggregator = peers
        await meet(aggregator, honest)
        await meet(aggregator, flood)
        await honest.write(0)
        await flood.write(*range(FLOOD_BUNDLES * K))
        held: list[int] = []
        delays = await _delays(honest, lambda n: _write(honest, n), held, aggregator, flood.key)
        await until(lambda: _holds_whole(aggregator, flood))

        assert percentile(delays, 0.99) <= 2.0
        assert max(held) - min(held) <= RATE * len(delays)
        assert aggregator.exchange.pace.waited_s > 0
        assert aggregator.feeds.holes == {}


async def test_a_relay_does_not_hold_up_others_for_an_author_that_floods(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    flood, honest = chain(FLOODER, FLOOD_BUNDLES, K), chain(HONEST, 8, 1)
    async with Meeting(tmp_path).peers(relay=OPEN, aggregator=FOLLOWING) as (relay, aggregator):
        await meet(aggregator, relay)
        await relay.feeds.add(honest[0])
        await trio.sleep(1)
        await relay.feeds.add_all(flood)
        delays = await _delays(
            relay, lambda n: relay.feeds.add(honest[n]), [], aggregator, HONEST, len(honest)
        )
        await until(lambda: aggregator.feeds.state_root() == relay.feeds.state_root())

        assert max(delays) <= 2.0
        assert aggregator.exchange.pace.left_out > 0
        assert aggregator.feeds.holes == {}


async def test_an_author_that_is_alone_is_not_slowed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await node.feeds.add_all(chain(FLOODER, FLOOD_BUNDLES, K))
        started = trio.current_time()
        await meet(node, aggregator)
        await until(lambda: aggregator.feeds.state_root() == node.feeds.state_root())

        assert trio.current_time() - started < 1


async def _write(peer: Peer, number: int) -> None:
    await peer.write(number)


async def _delays(
    at: Peer,
    write: Callable[[int], Awaitable[object]],
    held: list[int],
    aggregator: Peer,
    watched: SigningKey,
    count: int = 8,
) -> list[float]:
    """Write a bundle a second and return how long each took to be acknowledged; note in ``held``
    how far the aggregator has ``watched`` after each.
    """
    delays: list[float] = []
    mine = HONEST if watched == HONEST else at.key
    for number in range(1, count):
        await write(number)
        started = trio.current_time()
        await until(lambda number=number: _acked(at, mine) > number, within_s=60)
        delays.append(trio.current_time() - started)
        held.append((aggregator.feeds.last_seen(watched.public) or (0, 0))[1])
        await trio.sleep(1)
    return delays


def _acked(at: Peer, author: SigningKey) -> int:
    return max((n for (feed, _), n in at.feeds.acked.items() if feed == author.public), default=0)


def _holds_whole(aggregator: Peer, author: Peer) -> bool:
    seen = aggregator.feeds.last_seen(author.key.public)
    return seen == (author.feeds.epoch, author.feeds.next_sequence)
