"""What is let go of, and when."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import trio
import trio.testing

from peer.effects import Effects
from peer.feeds import Added, Feeds
from peer.journal import Journal
from peer.retention import Keep
from protocols.feed import Place, sign_bundle
from protocols.journal import Damage, Entry
from tests.support.feeds import (
    START_US,
    after,
    bundle,
    bundles_of,
    chain_of,
    effects,
    key,
    open_journal,
    record,
    running_feeds,
)
from tests.support.retaining import (
    OWNER,
    WEEK,
    acknowledge,
    acknowledge_of,
    after_days,
    entries,
    journal_of,
    retention,
    sequences,
    write,
)
from tests.support.rot import flip_at


async def test_what_nobody_acknowledged_is_never_dropped(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await write(feeds, range(5))
        after_days(feeds, 10_000)
        await retention(journal_of(feeds), feeds).enforce()
        assert sequences(feeds) == [0, 1, 2, 3, 4]

        await acknowledge(feeds, 2)
        await retention(journal_of(feeds), feeds).enforce()
        assert sequences(feeds) == [2, 3, 4]
        assert feeds.dropped_records == 2


async def test_what_is_acknowledged_stays_for_its_days(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await write(feeds, range(4))
        await acknowledge(feeds, 4)
        for days, left in ((0, 4), (6.9, 4), (7, 1)):
            after_days(feeds, days)
            await retention(journal_of(feeds), feeds, WEEK).enforce()
            assert len(sequences(feeds)) == left


async def test_seven_days_pass(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()

    def now_us() -> int:
        return START_US + int((trio.current_time() - began) * 1e6)

    journal = open_journal(tmp_path / "journal")
    clock = Effects(now_us, random.Random(0).randbytes, random.Random(0))
    feeds = Feeds(journal, OWNER, clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        await nursery.start(retention(journal, feeds, WEEK).run)
        await write(feeds, range(3))
        await acknowledge(feeds, 3)
        await trio.sleep(6.9 * 86_400)
        await write(feeds, range(3, 5))
        assert sequences(feeds) == [0, 1, 2, 3, 4]
        await trio.sleep(0.2 * 86_400)
        assert sequences(feeds) == [3, 4]
        nursery.cancel_scope.cancel()
    journal.close()


async def test_past_the_limit_of_bytes_the_oldest_go_before_their_time(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await write(feeds, range(10), size=10_000)
        await acknowledge(feeds, 10)
        await retention(journal_of(feeds), feeds, Keep(7, 35_000)).enforce()

        # three of the acknowledged ones fit, and the last is not counted
        assert sequences(feeds) == [6, 7, 8, 9]


async def test_an_oddly_dated_bundle_takes_nothing_before_its_time(tmp_path: Path) -> None:
    made = chain_of(key(3), 3)
    place = Place(1, made[-1].header.next_sequence, made[-1].cid)
    dated = sign_bundle(key(3), place, [record(key(3), 99).encode()], 5)  # in 1970
    made += [dated, after(dated, author=key(3))]
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await feeds.add_all(made)
        await acknowledge_of(feeds, key(3), made[-1].header.next_sequence)
        for days, left in ((6.9, 5), (7, 1)):
            after_days(feeds, days)
            await retention(journal_of(feeds), feeds, WEEK).enforce()
            assert bundles_of(feeds) == made[-left:]


async def test_a_damaged_bundle_takes_nothing_before_its_time(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await write(feeds, range(5))
        await acknowledge(feeds, 5)
        damaged = list(feeds.chains[OWNER.public, feeds.epoch])[3]
        flip_at(tmp_path / "journal", damaged.offset + 30)
        await retention(journal_of(feeds), feeds, WEEK).enforce()

        assert sequences(feeds) == [0, 1, 2, 4]
        assert feeds.quarantined == 1


async def test_bytes_are_freed_from_the_start_of_a_feed_that_came_in_another_order(
    tmp_path: Path,
) -> None:
    made = chain_of(key(3), 6)
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await feeds.add_all(made[::-1])
        await acknowledge_of(feeds, key(3), 18)
        size = len(made[1].encode()) + 100  # what an entry takes besides is less
        await retention(journal_of(feeds), feeds, Keep(7, 4 * size)).enforce()

        assert bundles_of(feeds) == made[1:]


async def test_a_feed_goes_on_exactly_where_it_was_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await write(feeds, range(6))
        await acknowledge(feeds, 6)
        root, place, last = feeds.state_root(), feeds.place, bundles_of(feeds)[-1]
        await retention(journal_of(feeds), feeds).enforce()
        assert (feeds.state_root(), feeds.place, feeds.holes) == (root, place, {})

    async with running_feeds(path, OWNER) as feeds:
        assert (feeds.state_root(), feeds.place, feeds.holes) == (root, place, {})
        assert feeds.dropped_records == 5
        assert feeds.acknowledged_sequence() == 6
        await write(feeds, range(6, 7))
        made = bundles_of(feeds)[-1]
        assert (made.header.epoch, made.header.first_sequence) == place
        assert made.header.previous == last.cid


async def test_what_was_dropped_is_held_when_it_comes_once_more(tmp_path: Path) -> None:
    made = chain_of(key(3), 4)
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await feeds.add_all(made)
        await acknowledge_of(feeds, key(3), made[-1].header.next_sequence)
        await retention(journal_of(feeds), feeds).enforce()
        assert bundles_of(feeds) == made[3:]

        assert await feeds.add_all(made) == [Added.DUPLICATE] * 4
        assert bundles_of(feeds) == made[3:]


async def test_a_bundle_that_comes_behind_the_word_that_its_place_is_dropped_is_left_alone(
    tmp_path: Path,
) -> None:
    path, disk = tmp_path / "journal", trio.Event()
    made, rival = chain_of(key(3), 4), bundle(key(3), marker=7)

    async def slow(write_batch: Callable[[], None]) -> None:
        await disk.wait()
        write_batch()

    async with running_feeds(path, OWNER) as feeds:
        await feeds.add_all(made)
        await acknowledge_of(feeds, key(3), 12)
    with closing(Journal.open(path, offload=slow)) as journal:
        feeds = Feeds(journal, OWNER, effects())
        place = key(3).public, 1
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            nursery.start_soon(feeds.drop, place, feeds.droppable(place)[-1])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(feeds.add, rival)  # waits for its turn at the disk
            await trio.testing.wait_all_tasks_blocked()
            disk.set()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert entries(journal)[-2:] == [Entry.DROPPED, Entry.BUNDLE]
        assert bundles_of(feeds) == made[3:]

    async with running_feeds(path, OWNER) as feeds:
        assert bundles_of(feeds) == made[3:]


async def test_what_is_held_no_longer_lacks_no_body(tmp_path: Path) -> None:
    made = chain_of(key(3), 4)
    bare = [each.with_records([b""] * 3) for each in made]
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await feeds.add_all([*bare[:3], made[3]])
        damaged = next(iter(feeds.chains[key(3).public, 1])).offset
        feeds.quarantine([Damage(damaged, damaged + 1)])
        assert {each.sequence for each in feeds.bodies.lacking} == {3, 4, 5, 6, 7, 8}

        await feeds.add(made[0])
        assert {each.sequence for each in feeds.bodies.lacking} == {3, 4, 5, 6, 7, 8}

        await acknowledge_of(feeds, key(3), 12)
        await retention(journal_of(feeds), feeds).enforce()
        assert feeds.bodies.lacking == []
        assert feeds.chains[key(3).public, 1].lacking == {}


async def test_bundles_of_a_worker_that_were_sought_one_by_one_go_too(tmp_path: Path) -> None:
    path, made = tmp_path / "journal", chain_of(key(3), 9)
    async with running_feeds(path, OWNER) as feeds:
        await feeds.add_all([made[2], made[5], made[6], made[8]])
        await acknowledge_of(feeds, key(3), 24)
        await retention(journal_of(feeds), feeds).enforce()
        assert bundles_of(feeds) == [made[8]]
        root = feeds.state_root()

    async with running_feeds(path, OWNER) as feeds:
        assert bundles_of(feeds) == [made[8]]
        assert feeds.state_root() == root
        assert feeds.holes == {(key(3).public, 1): [(21, 24)]}
        assert await feeds.add(made[7]) is Added.NEW


async def test_a_bundle_that_rotted_away_does_not_keep_what_is_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await write(feeds, range(10))
        await acknowledge(feeds, 10)
        rotten = list(feeds.chains[OWNER.public, feeds.epoch])[2].offset
        feeds.quarantine([Damage(rotten, rotten + 1)])
        after_days(feeds, 7)
        await retention(journal_of(feeds), feeds, WEEK).enforce()
        assert sequences(feeds) == [9]
        place = feeds.place
    flip_at(path, rotten + 30)

    async with running_feeds(path, OWNER) as feeds:
        assert (sequences(feeds), feeds.place, feeds.holes) == ([9], place, {})


async def test_a_feed_that_forks_is_kept_as_evidence(tmp_path: Path) -> None:
    one, other = chain_of(key(3), 3), chain_of(key(3), 3, count=2)
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await feeds.add_all([*one, *other])
        await acknowledge_of(feeds, key(3), 6)
        await retention(journal_of(feeds), feeds).enforce()

        assert len(bundles_of(feeds)) == 6
