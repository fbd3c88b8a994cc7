"""Figures ``negotiate_…``, ``fresh_bundle_ms`` and ``ack_p99_s_beside_flood``: how two peers find
out what one lacks, and how soon a new bundle of one is on the other's disk and acknowledged.

Over libp2p on loopback, journals with their fsyncs, all peers in this one process. The flood is an
author of 10,000 records a second in full bundles beside an honest one that writes four records a
second. The baseline of the bytes is the same as JSON; that of the waiting is no flood.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from peer.effects import system_effects
from peer.exchange import Exchange, Policy
from peer.feeds import Feeds
from peer.journal import Journal
from peer.service import running
from protocols.feed import Bundle, Place, sign_bundle
from protocols.keys import SigningKey
from protocols.sync import encode, have_messages, want_messages
from protocols.transport import Transport
from tests.bench.figure import Figure, figure, percentile
from tests.support.exchanging import FOLLOWING, OPEN
from tests.support.feeds import key, record
from tests.support.transports import connect_admitted, libp2p

FEEDS = 50
FLOOD_RECORDS_S = 10_000
FLOOD_S = 12.0
WRITE_EVERY_S = 0.25
K = 64


@dataclass
class _Peer:
    key: SigningKey
    feeds: Feeds
    exchange: Exchange
    transport: Transport


def figures() -> Iterator[Figure]:
    """Measure what is said, and how long new bundles take."""
    yield from _negotiation()
    quiet = trio.run(_delays, 0)
    flooded = trio.run(_delays, int(FLOOD_RECORDS_S * FLOOD_S) // K)
    yield figure("fresh_bundle_ms", "ms", [1e3 * percentile(quiet, 0.5)], n=len(quiet))
    yield figure(
        "ack_p99_s_beside_flood",
        "s",
        [percentile(flooded, 0.99)],
        n=len(flooded),
        baseline="the same author, no flood",
        baseline_rounds=[percentile(quiet, 0.99)],
    )


def _negotiation() -> Iterator[Figure]:
    """What both sides say, each in one message, when each holds fifty feeds."""

    async def held() -> tuple[int, int, int]:
        async with _peer(1, FOLLOWING) as holder:
            for number in range(FEEDS):
                author = SigningKey.from_seed((2_000 + number).to_bytes(32, "big"))
                await holder.feeds.add_all(_chain(author, 2, 4))
            chains = holder.feeds.chains
            wants, haves = list(want_messages(chains, follow=True)), list(have_messages(chains))
            plain = [
                [head.feed.hex(), head.epoch, head.next_sequence, str(head.header)]
                for head in holder.feeds.heads()
            ]
            assert (len(wants), len(haves)) == (1, 1)
            return len(encode(wants)), len(encode(haves)), len(json.dumps(plain))

    want, have, plain = trio.run(held)
    for name, size in (("want", want), ("have", have)):
        yield figure(
            f"negotiate_{name}_bytes_50",
            "bytes",
            [size],
            n=FEEDS,
            baseline="heads as JSON",
            baseline_rounds=[plain],
        )


async def _delays(flood_bundles: int) -> list[float]:
    """Return how long each record of an honest author took from its cut to its
    acknowledgement.
    """
    flood = _chain(key(9), flood_bundles, K) if flood_bundles else []
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(_peer(number, policy))
            for number, policy in ((1, OPEN), (2, OPEN), (3, FOLLOWING))
        ]
        flooder, honest, aggregator = peers
        for node in (flooder, honest):
            await connect_admitted(aggregator.transport, node.transport)
            aggregator.exchange.peer_up(node.key.peer_id)
        delays: list[float] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pour, flooder, flood)
            for number in range(int(FLOOD_S / WRITE_EVERY_S)):
                await honest.feeds.append(record(honest.key, number))
                began = time.monotonic()
                await honest.feeds.cut_all()
                while honest.feeds.acknowledged_sequence() <= number:  # noqa: ASYNC110 - no event
                    await trio.sleep(0.001)
                delays.append(time.monotonic() - began)
                await trio.sleep(WRITE_EVERY_S)
            nursery.cancel_scope.cancel()
        return delays


async def _pour(flooder: _Peer, flood: list[Bundle]) -> None:
    """Let the flood come in at its rate."""
    began = trio.current_time()
    for number, bundle in enumerate(flood):
        await trio.sleep_until(began + number * K / FLOOD_RECORDS_S)
        await flooder.feeds.add(bundle)


def _chain(author: SigningKey, length: int, count: int) -> list[Bundle]:
    bundles: list[Bundle] = []
    place = Place(1, 0, None)
    for _ in range(length):
        first = place.first_sequence
        records = [record(author, number).encode() for number in range(first, first + count)]
        bundle = sign_bundle(author, place, records, 0)
        bundles.append(bundle)
        place = Place(1, bundle.header.next_sequence, bundle.cid)
    return bundles


@asynccontextmanager
async def _peer(number: int, policy: Policy) -> AsyncGenerator[_Peer]:
    owner = key(number)
    with tempfile.TemporaryDirectory(prefix="covey-bench-") as folder:
        journal = Journal.open(Path(folder) / "journal")
        try:
            async with running(journal.run):
                feeds, transport = Feeds(journal, owner, system_effects()), libp2p(owner)
                exchange = Exchange(transport, feeds, policy)
                async with running(transport.run, exchange.run):
                    yield _Peer(owner, feeds, exchange, transport)
        finally:
            journal.close()
