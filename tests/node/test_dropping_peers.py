"""What others see of a peer that lets go of records."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from peer.check import Checker, walk
from peer.tables import Rows
from protocols.chain import state_root
from protocols.feed import Bundle
from protocols.keys import peer_id_of
from protocols.sync import Gone
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, Peer, meet, until
from tests.support.feeds import (
    bundles_of,
    chain_of,
    key,
    running_feeds,
)
from tests.support.retaining import OWNER, acknowledge, journal_of, retention, sequences, write


async def test_who_comes_late_gets_the_rest_and_is_told_what_is_gone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    meeting = Meeting(tmp_path)
    async with meeting.peer(1) as node:
        async with meeting.peer(2, FOLLOWING) as early:
            await meet(node, early)
            await write(node.feeds, range(6))
            await until(lambda: node.feeds.acknowledged_sequence() == 6)
            whole = early.feeds.state_root()
        place = node.key.public, node.feeds.epoch
        await retention(node.journal, node.feeds).enforce()
        assert node.feeds.state_root() == whole

        async with meeting.peer(3, FOLLOWING) as late:
            await meet(node, late)
            await write(node.feeds, range(6, 8))
            await until(lambda: node.feeds.acknowledged_sequence() == 8)

            assert sequences(late.feeds) == [5, 6, 7]
            assert late.feeds.holes == {place: [(0, 5)]}
            assert late.feeds.gone_elsewhere == {place: Gone(*place, 5, key(2).public)}
            assert node.feeds.acknowledged.by[place] == late.key.public
            await retention(node.journal, node.feeds).enforce()
            assert sequences(node.feeds) == [7]
            walked = walk(late.journal.inspect(late.journal.size), late.key.public)
            checker = Checker(walked, [], (), late.feeds.gone_elsewhere)
            rows = Rows(0, walked.records, 0, walked.bundles, 0)
            findings = list(checker.findings(rows))
            (gone,) = [each for each in findings if each.code in ("hole", "gone")]
            assert (gone.code, gone.fetch_from) == ("gone", [early_peer()])
            walked.own = key(2).public
            (lost,) = [each for each in checker.findings(rows) if each.code == "gone"]
            assert "were lost here" in lost.message
            assert lost.fetch_from == []
            late.exchange.peer_down(peer_id_of(node.key.public))
            assert late.feeds.gone_elsewhere == {}


async def test_what_a_peer_has_dropped_is_kept_of_held_feeds_until_it_tells_anew(
    tmp_path: Path,
) -> None:
    held, other, server = (key(2).public, 1), (key(3).public, 1), key(4).public
    dropped = {each: Gone(*each, 5, key(5).public) for each in (held, other)}
    async with running_feeds(tmp_path / "journal", key(1)) as feeds:
        await feeds.add_all(chain_of(key(2), 1))
        feeds.note_gone(server, dropped)
        first = feeds.gone_elsewhere
        feeds.note_gone(server, {})
        second = feeds.gone_elsewhere

    assert first == {held: dropped[held]}
    assert second == {}


def early_peer() -> str:
    return peer_id_of(key(2).public)


async def test_a_late_aggregators_word_drops_nothing_that_it_does_not_hold(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await write(feeds, range(6))
        await acknowledge(feeds, 6, first=3)
        await retention(journal_of(feeds), feeds).enforce()

        assert sequences(feeds) == [0, 1, 2, 3, 4, 5]
        assert feeds.acknowledged_sequence() == 0


async def test_an_early_aggregator_that_has_all_acknowledges_from_the_start(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    meeting = Meeting(tmp_path)
    async with meeting.peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        await write(node.feeds, range(4))
        await until(lambda: node.feeds.acknowledged_sequence() == 4)
        await retention(node.journal, node.feeds).enforce()
        await again(node, aggregator)
        await write(node.feeds, range(4, 5))
        await until(lambda: node.feeds.acknowledged_sequence() == 5)

        assert aggregator.feeds.state_root() == node.feeds.state_root()
        assert state_root(aggregator.feeds.chains) == aggregator.feeds.state_root()
        assert sum(len(each.records) for each in bundles_of(aggregator.feeds)) == 5


async def again(node: Peer, aggregator: Peer) -> None:
    """Let the aggregator lose its connection and come back."""
    aggregator.exchange.peer_down(node.transport.peer_id)
    aggregator.exchange.peer_up(node.transport.peer_id)


async def test_a_bundle_that_is_read_while_it_is_dropped_is_whole_or_none(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await write(feeds, range(3))
        ((_, chain),) = feeds.chains.items()
        links = list(chain)
        await acknowledge(feeds, 3)
        await retention(journal_of(feeds), feeds).enforce()

        assert [feeds.read(link) for link in links[:2]] == [None, None]
        assert Bundle.decode(feeds.read(links[2]) or b"").header.first_sequence == 2


@pytest.mark.parametrize("has_met_worker", [True, False])
async def test_a_bundle_sought_from_below_what_was_dropped_is_with_an_aggregator(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, has_met_worker: bool
) -> None:
    """A node lets go of a worker's bundles only up to where somebody has every one before."""
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING, worker=OPEN) as peers:
        node, aggregator, worker = peers
        for number in range(6):
            await worker.write(number)
        made = bundles_of(worker.feeds)
        place = worker.key.public, worker.feeds.epoch
        await node.feeds.add_all([made[2], made[5]])
        if has_met_worker:
            await meet(aggregator, worker)
            await until(lambda: len(bundles_of(aggregator.feeds)) == 6)
        await meet(node, aggregator)
        await until(lambda: aggregator.feeds.holds(place, 5, made[5].cid))
        await trio.sleep(60)
        await retention(node.journal, node.feeds).enforce()
        await meet(node, worker)
        sought = await node.exchange.seek(worker.transport.peer_id, made[1].header.digests)

        kept = {each.cid for each in (*bundles_of(node.feeds), *bundles_of(aggregator.feeds))}
        assert sought == [made[1]]
        assert node.feeds.is_dropped(*place, 1) == has_met_worker
        assert {made[1].cid, made[2].cid, made[5].cid} <= kept
