from __future__ import annotations

from pathlib import Path

from peer.exchange import Exchange
from peer.feeds import Feeds
from peer.journal import Journal
from peer.service import running
from tests.support.exchanging import FOLLOWING, OPEN
from tests.support.feeds import chain_of, effects, key, record
from tests.support.transports import connect_admitted, libp2p, until


async def test_feeds_are_pulled_and_acknowledged_over_the_real_network(tmp_path: Path) -> None:
    node_key, aggregator_key = key(1), key(2)
    journals = [Journal.open(tmp_path / name) for name in ("node", "aggregator")]
    node_feeds = Feeds(journals[0], node_key, effects())
    aggregator_feeds = Feeds(journals[1], aggregator_key, effects())
    node, aggregator = libp2p(node_key), libp2p(aggregator_key)
    Exchange(node, node_feeds, OPEN)
    exchange = Exchange(aggregator, aggregator_feeds, FOLLOWING)

    async with running(*(journal.run for journal in journals)):
        await node_feeds.add_all(chain_of(key(7), 40, count=8))
        await node_feeds.append(record(node_key))
        async with running(node.run, aggregator.run, exchange.run):
            await connect_admitted(aggregator, node)
            exchange.peer_up(node.peer_id)
            await until(lambda: node_feeds.acknowledged_sequence() == 1, within_s=30)

            assert aggregator_feeds.state_root() == node_feeds.state_root()
    for journal in journals:
        journal.close()
