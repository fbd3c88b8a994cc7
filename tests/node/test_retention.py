from __future__ import annotations

import random
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from aggregator.check import Checker, walk
from node import reading
from node.accepted import Acceptance, AcceptedJobs
from node.config import Records
from node.errors import UnknownError
from node.retention import needed_by, retention_of
from node.salts import Salts
from node.store import Store
from peer import segments
from peer.effects import Effects
from peer.feeds import Added, Feeds
from peer.index import Index
from peer.journal import Journal, JournalErasedError
from peer.retention import Keep, Retention
from peer.rows import read_batch
from peer.service import running
from peer.tables import IN_MEMORY, Rows
from protocols.ack import AckEntry, SignedAck
from protocols.chain import state_root
from protocols.cid import CID
from protocols.feed import Bundle, Place, sign_bundle
from protocols.journal import Damage, Entry, RecordBody
from protocols.keys import SigningKey, peer_id_of
from protocols.membership import AGGREGATOR as AGGREGATOR_ROLE
from protocols.record import Record
from protocols.sync import Gone
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, Peer, meet, until
from tests.support.feeds import (
    START_US,
    after,
    bundle,
    bundles_of,
    chain_of,
    cid_of,
    effects,
    key,
    open_journal,
    record,
    running_feeds,
    segment_of,
)
from tests.support.rot import flip_at
from tests.unit.test_tombstone import MESH, certificate, tombstone

DAY_US = 86_400_000_000
WEEK = Keep(days=7, max_bytes=1 << 30)
NOTHING = Keep(days=0, max_bytes=0)
OWNER, AGGREGATOR = key(1), key(2)


async def acknowledge(feeds: Feeds, place: int, first: int = 0, epoch: int | None = None) -> None:
    entry = AckEntry(feeds.key.public, feeds.epoch if epoch is None else epoch, place, first)
    await feeds.acknowledge(SignedAck.sign(AGGREGATOR, [entry], START_US))


async def acknowledge_of(feeds: Feeds, author: SigningKey, place: int) -> None:
    entry = AckEntry(author.public, 1, place)
    await feeds.acknowledge(SignedAck.sign(AGGREGATOR, [entry], START_US))


async def write(feeds: Feeds, numbers: range, size: int = 0) -> None:
    for number in numbers:
        await feeds.append(record(OWNER, number, size=size))
        await feeds.cut()


def retention(journal: Journal, feeds: Feeds, keep: Keep = NOTHING) -> Retention:
    return Retention(journal, feeds, keep, nothing_needed, no_index)


def nothing_needed(_kind: Entry, _body: bytes) -> bool:
    return False


async def no_index(_places: Collection[int]) -> None:
    pass


def index_of(journal: Journal, path: Path) -> Index[Store]:
    open_store = partial(Store.open, memory_mb=64, own=OWNER.public)
    return Index(journal, path, OWNER.public, open_store, lag_bytes_max=1 << 30)


def journal_of(feeds: Feeds) -> Journal:
    return feeds._journal  # pyright: ignore[reportPrivateUsage]


def after_days(feeds: Feeds, days: float) -> None:
    now_us = START_US + int(days * DAY_US)
    feeds.effects = replace(feeds.effects, now_us=lambda: now_us)


def sequences(feeds: Feeds) -> list[int]:
    return [made.header.first_sequence for made in bundles_of(feeds)]


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
        rot(tmp_path / "journal", damaged.offset + 30)
        await retention(journal_of(feeds), feeds, WEEK).enforce()

        assert sequences(feeds) == [0, 1, 2, 4]
        assert feeds.quarantined == 1


def rot(journal: Path, offset: int) -> None:
    with segment_of(journal).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


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
    rot(path, rotten + 30)

    async with running_feeds(path, OWNER) as feeds:
        assert (sequences(feeds), feeds.place, feeds.holes) == ([9], place, {})


async def test_a_feed_that_forks_is_kept_as_evidence(tmp_path: Path) -> None:
    one, other = chain_of(key(3), 3), chain_of(key(3), 3, count=2)
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await feeds.add_all([*one, *other])
        await acknowledge_of(feeds, key(3), 6)
        await retention(journal_of(feeds), feeds).enforce()

        assert len(bundles_of(feeds)) == 6


# The bytes


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 20_000)


def entries(journal: Journal) -> list[Entry]:
    return [kind for _, _, kind, _ in journal.scan()]


@pytest.mark.usefixtures("small_segments")
async def test_the_disk_gets_the_room_of_dropped_records_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        journal = journal_of(feeds)
        await write(feeds, range(40), size=5_000)
        await acknowledge(feeds, 40)
        before, root = journal.disk_bytes, feeds.state_root()

        await retention(journal, feeds).enforce()

        assert journal.disk_bytes < before / 2
        assert entries(journal).count(Entry.RECORD) < 8
        assert await journal.append(Entry.SALT, b"") == journal.size - 20
    async with running_feeds(path, OWNER) as feeds:
        assert feeds.state_root() == root
        assert feeds.acknowledged_sequence() == 40
        assert (journal_of(feeds).damage, feeds.epoch) == ([], bundles_of(feeds)[0].header.epoch)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("swept", range(4))
async def test_a_crash_before_all_is_erased_neither_forks_nor_moves_the_feed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swept: int
) -> None:
    """Whichever segments the bytes are gone from: records without headers, or the reverse."""
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        journal = journal_of(feeds)
        for number in range(60):
            await feeds.append(record(OWNER, number, size=1_700))
            if number % 8 == 7:  # bundles lie across the ends of segments
                await feeds.cut_all()
        await feeds.cut_all()
        await acknowledge(feeds, 60)
        root, place = feeds.state_root(), feeds.place
        ranges = journal.sealed()
        assert len(ranges) > 4
        monkeypatch.setattr(Journal, "sealed", lambda _: ranges[swept : swept + 1])
        await retention(journal, feeds).enforce()
        assert Entry.DROPPED in entries(journal)
    monkeypatch.undo()

    async with running_feeds(path, OWNER) as feeds:
        assert (feeds.state_root(), feeds.place) == (root, place)
        assert await feeds.cut() is None, "nothing that was signed is signed again"
        assert feeds.place == place
        await retention(journal_of(feeds), feeds).enforce()
        assert (feeds.state_root(), feeds.place) == (root, place)


@pytest.mark.usefixtures("small_segments")
async def test_salts_and_acceptances_outlive_the_records_around_them(tmp_path: Path) -> None:
    path, job_id = tmp_path / "journal", bytes(16)
    accepted_by = Record(
        author=OWNER.public,
        nonce=b"accepted",
        kind="job.accepted",
        start_us=START_US,
        attributes={
            "job_id": job_id,
            "fence": 3,
            "kind": "embed",
            "model": "m",
            "input": CID.of(b"in"),
        },
    )
    async with running_feeds(path, OWNER) as feeds:
        journal = journal_of(feeds)
        salts, accepted = Salts(journal, effects()), AcceptedJobs(journal)
        index = index_of(journal, tmp_path / "index.duckdb")
        salt = salts.of_content(b"\1" * 32)
        salts.keep(b"\2" * 32, b"s" * 16)
        cid = await feeds.append(accepted_by)
        accepted.add(job_id, Acceptance(cid, 3, "embed", "m", bytes(CID.of(b"in"))))
        for _ in range(3):  # what was written anew is written anew when its turn comes
            await write(feeds, range(40), size=5_000)
            await acknowledge(feeds, feeds.next_sequence)
            options = Records(keep_days=0, keep_mb=0)
            async with running(index.run):
                needed = needed_by(salts, accepted)
                await retention_of(journal, feeds, index, options, needed).enforce()
        kept = [body for _, _, kind, body in journal.scan() if kind is Entry.KEPT]
        assert kept[-1] == accepted_by.encode()
        assert len(kept) <= 2
        records = [body for _, _, kind, body in journal.scan() if kind is Entry.RECORD]
        assert accepted_by.encode() not in [RecordBody.decode(body).record for body in records]

    with closing(open_journal(path)) as journal:
        again = Salts(journal, effects(seed=9))
        assert again.of_content(b"\1" * 32) == salt
        assert again.of_content(b"\2" * 32) == b"s" * 16
        assert again.of_output(job_id) == salts.of_output(job_id)
        assert AcceptedJobs(journal).get(job_id) == accepted.get(job_id)


@pytest.mark.usefixtures("small_segments")
async def test_a_redaction_outlives_the_tombstone_that_was_dropped(tmp_path: Path) -> None:
    path, author, operator = tmp_path / "journal", key(3), key(11)
    own, others = record(OWNER, 900), record(author, 901)
    by_operator = sign_bundle(
        operator,
        Place(1, 0, None),
        [
            certificate(operator, AGGREGATOR_ROLE).encode(),
            tombstone(operator, "aggregator", cid_of(others)).encode(),
        ],
        START_US,
    )

    def redacted(feeds: Feeds) -> list[bool]:
        redactions = feeds.bodies.redactions
        return [
            redactions.of(cid_of(own), OWNER.public) is not None,
            redactions.of(cid_of(others), author.public) is not None,
        ]

    async with running_feeds(path, OWNER, MESH.root.public) as feeds:
        await feeds.add_all([by_operator, after(by_operator, author=operator)])
        await feeds.append(tombstone(OWNER, "author", cid_of(own)))
        for each in range(3):  # what was written anew is written anew when its turn comes
            await write(feeds, range(40 * each, 40 * each + 40), size=5_000)
            await acknowledge(feeds, feeds.next_sequence)
            await acknowledge_of(feeds, operator, by_operator.header.next_sequence)
            await retention(journal_of(feeds), feeds).enforce()
        assert entries(journal_of(feeds)).count(Entry.KEPT) == 3
        assert [made.header.first_sequence for made in bundles_of(feeds)] == [2, 120]

    async with running_feeds(path, OWNER, MESH.root.public) as feeds:
        assert redacted(feeds) == [True, True]


@pytest.mark.usefixtures("small_segments")
async def test_a_segment_that_is_swept_gives_its_damaged_bytes_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await write(feeds, range(40), size=5_000)
        await acknowledge(feeds, 40)
        rotten = list(feeds.chains[OWNER.public, feeds.epoch])[2].offset
        flip_at(path, rotten + 30)
        place = feeds.place
        await retention(journal_of(feeds), feeds).enforce()
        left = list(journal_of(feeds).inspect(journal_of(feeds).size))
    async with running_feeds(path, OWNER) as feeds:
        assert journal_of(feeds).damage == []
        assert (feeds.place, feeds.holes) == (place, {})

    assert not [each for each in left if isinstance(each, Damage)]


@pytest.mark.usefixtures("small_segments")
async def test_a_sweep_does_not_forget_damage_in_which_the_latest_signature_lay(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await write(feeds, range(4))
        signed = feeds.place
        await feeds.add_all(chain_of(key(3), 60, count=8))
        await acknowledge_of(feeds, key(3), 480)
        await acknowledge(feeds, 4)
        flip_at(path, feeds.settled_at + 30)
        await retention(journal_of(feeds), feeds).enforce()
    async with running_feeds(path, OWNER) as feeds:
        assert len(journal_of(feeds).damage) == 1
        assert feeds.place > signed


# The index


def indexed(journal: Journal, store: Store) -> Store:
    while store.mark() < journal.size:
        store.insert(read_batch(journal.scan(store.mark()), journal.size, OWNER.public))
    return store


@pytest.mark.usefixtures("small_segments")
async def test_an_index_made_anew_equals_the_one_that_followed(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        journal, followed = journal_of(feeds), Store.open(IN_MEMORY, 256, OWNER.public)
        await write(feeds, range(20), size=5_000)
        indexed(journal, followed)
        await acknowledge(feeds, 15)
        gone = await feeds.append(record(OWNER, 99))
        await retention(journal, feeds).enforce()
        await write(feeds, range(20, 25))

        indexed(journal, followed)
        anew = indexed(journal, Store.open(IN_MEMORY, 256, OWNER.public))

        assert followed.newest(None, 100) == anew.newest(None, 100)
        assert followed.dropped() == anew.dropped()
        assert followed.rows() == anew.rows()
        assert isinstance(anew.rows(), Rows)
        assert [row.sequence for row in anew.newest(None, 100)][-1] == 15
        assert anew.record(gone) is not None
        for store in (followed, anew):
            store.close()


@pytest.mark.usefixtures("small_segments")
async def test_what_was_erased_is_not_lost_to_an_index_that_was_behind(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        journal, path = journal_of(feeds), tmp_path / "index.duckdb"
        await write(feeds, range(1))
        index = index_of(journal, path)
        async with running(index.run):
            await index.catch_up()  # and knows the journal by an entry of its first segment
            known = await index.ask(lambda store: store.last())
            assert known is not None
            await write(feeds, range(1, 20), size=5_000)
            await acknowledge(feeds, 20)
            options = Records(keep_days=0, keep_mb=0)
            await retention_of(journal, feeds, index, options, nothing_needed).enforce()
            with pytest.raises(JournalErasedError):
                journal.entry(known.place)

        again = index_of(journal, path)
        async with running(again.run):
            await again.catch_up()
            assert again.lost == []
            newest = await again.ask(lambda store: store.newest(None, 100))
        assert [row.sequence for row in newest] == [19]


async def test_whoever_asks_for_a_dropped_record_is_told_who_keeps_it(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        journal, store = journal_of(feeds), Store.open(IN_MEMORY, 256, OWNER.public)
        gone = await feeds.append(record(OWNER, 0))
        await feeds.cut()
        await write(feeds, range(1, 4))
        await acknowledge(feeds, 4)
        await retention(journal, feeds).enforce()
        indexed(journal, store)

        with pytest.raises(UnknownError) as caught:
            reading.show_record(store, {"cid": str(gone)})
        assert "3 were dropped" in caught.value.message
        assert peer_id_of(AGGREGATOR.public) in (caught.value.hint or "")
        assert reading.list_dropped(store, {}) == [
            {
                "peer": peer_id_of(OWNER.public),
                "epoch": feeds.epoch,
                "next_sequence": 3,
                "aggregator": peer_id_of(AGGREGATOR.public),
            }
        ]
        store.close()


# Others


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
