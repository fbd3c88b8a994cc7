from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from peer.feeds import Feeds
from protocols.chain import Link
from protocols.feed import Bundle
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, Peer, meet, until
from tests.support.feeds import chain_of, key, running_feeds
from tests.support.rot import flip

AUTHOR = key(7)


def rot(peer: Peer, bundle: Bundle) -> None:
    """Damage a record of ``bundle`` on the disk of ``peer``."""
    flip(peer.journal.path, bundle.records[0])


def links(feeds: Feeds, author: bytes = AUTHOR.public) -> list[Link]:
    return [link for (feed, _), chain in feeds.chains.items() for link in chain if feed == author]


def read_all(feeds: Feeds, author: bytes = AUTHOR.public) -> list[bytes | None]:
    return [feeds.read(link) for link in links(feeds, author)]


async def test_a_bundle_that_is_found_damaged_when_it_is_read_is_held_no_longer(
    tmp_path: Path,
) -> None:
    bundles = chain_of(AUTHOR, 3)
    async with running_feeds(tmp_path / "journal", key(1)) as feeds:
        await feeds.add_all(bundles)
        flip(tmp_path / "journal", bundles[1].records[0])

        answers = read_all(feeds)

        assert answers == [bundles[0].encode(), None, bundles[2].encode()]
        assert feeds.holes == {(AUTHOR.public, 1): [(3, 6)]}
        assert [link.first_sequence for link in links(feeds)] == [0, 6]
        assert feeds.quarantined == 1
        assert (await feeds.add(bundles[1])).name == "NEW"
        assert feeds.holes == {}


async def test_a_bundle_of_our_own_is_broken_by_damage_to_any_of_its_entries(
    tmp_path: Path,
) -> None:
    async with Meeting(tmp_path).peer(1) as author:
        await author.write(1)
        await author.write(2)
        [damaged, whole] = read_all(author.feeds, author.key.public)
        assert damaged is not None

        rot(author, Bundle.decode(damaged))

        assert read_all(author.feeds, author.key.public) == [None, whole]
        assert author.feeds.holes == {(author.key.public, author.feeds.epoch): [(0, 1)]}


@asynccontextmanager
async def an_author_and_two_aggregators(
    folder: Path, gone: int | None = None
) -> AsyncGenerator[list[Peer]]:
    """All three meet, and both aggregators hold three bundles of the author's; then nobody sees
    the one that is ``gone`` any more.
    """
    meeting = Meeting(folder)
    async with meeting.peers(author=OPEN, one=FOLLOWING, other=FOLLOWING) as peers:
        author, one, other = peers
        for number in range(3):
            await author.write(number)
        await meet(author, one)
        await meet(author, other)
        await meet(one, other)
        await until(lambda: one.feeds.state_root() == other.feeds.state_root())
        await until(lambda: len(links(one.feeds, author.key.public)) == 3)
        if gone is not None:
            for peer in peers:
                meeting.network.reset(peers[gone].key.peer_id, peer.key.peer_id)
        yield peers


async def test_what_is_found_damaged_is_fetched_again_from_its_author(tmp_path: Path) -> None:
    async with an_author_and_two_aggregators(tmp_path, gone=2) as (author, one, _):
        before = one.feeds.state_root()
        bundles = read_all(author.feeds, author.key.public)
        assert bundles[1] is not None

        rot(one, Bundle.decode(bundles[1]))
        assert read_all(one.feeds, author.key.public).count(None) == 1
        assert one.feeds.state_root() != before
        await until(lambda: one.feeds.state_root() == before)

        assert read_all(one.feeds, author.key.public) == bundles


async def test_what_is_found_damaged_is_fetched_again_from_any_peer_that_has_it(
    tmp_path: Path,
) -> None:
    async with an_author_and_two_aggregators(tmp_path, gone=0) as (author, one, _):
        before = one.feeds.state_root()
        [last] = read_all(one.feeds, author.key.public)[2:]
        assert last is not None

        rot(one, Bundle.decode(last))
        assert read_all(one.feeds, author.key.public)[2] is None
        await until(lambda: one.feeds.state_root() == before)

        assert read_all(one.feeds, author.key.public)[2] == last


async def test_an_aggregator_gets_its_own_damaged_bundle_back_and_goes_on_in_its_epoch(
    tmp_path: Path,
) -> None:
    async with an_author_and_two_aggregators(tmp_path) as (_, one, other):
        await one.write(1)
        await one.write(2)
        await until(lambda: one.feeds.state_root() == other.feeds.state_root())
        before, epoch = one.feeds.state_root(), one.feeds.epoch
        [first, _] = read_all(one.feeds, one.key.public)
        assert first is not None

        rot(one, Bundle.decode(first))
        assert None in read_all(one.feeds, one.key.public)
        await until(lambda: one.feeds.state_root() == before)
        await one.write(3)

        assert None not in read_all(one.feeds, one.key.public)
        assert one.feeds.epoch == epoch
        assert not one.feeds.forks


async def test_what_nobody_else_has_stays_missing_and_is_not_acknowledged(tmp_path: Path) -> None:
    async with Meeting(tmp_path).peers(author=OPEN, one=FOLLOWING) as (author, one):
        for number in range(3):
            await author.write(number)
        [damaged, *whole] = read_all(author.feeds, author.key.public)
        assert damaged is not None
        rot(author, Bundle.decode(damaged))

        await meet(author, one)
        await until(lambda: len(links(one.feeds, author.key.public)) == 2)
        await trio.testing.wait_all_tasks_blocked()

        assert read_all(one.feeds, author.key.public) == whole
        assert one.feeds.holes == {(author.key.public, author.feeds.epoch): [(0, 1)]}
        assert author.feeds.acknowledged_sequence() == 0


async def test_who_was_asked_is_no_longer_so_when_more_turns_out_to_be_damaged(
    tmp_path: Path,
) -> None:
    async with an_author_and_two_aggregators(tmp_path) as (author, one, other):
        both = {author.key.peer_id, other.key.peer_id}
        await one.exchange.refresh()
        before = set(one.exchange.answered)
        [_, damaged, _] = read_all(one.feeds, author.key.public)
        assert damaged is not None
        rot(one, Bundle.decode(damaged))
        assert read_all(one.feeds, author.key.public).count(None) == 1
        found = set(one.exchange.answered)
        await one.exchange.refresh()
        again = set(one.exchange.answered)
        one.exchange.peer_down(other.key.peer_id)

        assert (before, found, again) == (both, set(), both)
        assert one.exchange.answered == [author.key.peer_id]
