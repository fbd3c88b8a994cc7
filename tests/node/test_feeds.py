from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import pytest
import trio
import trio.testing

from peer.check import walk
from peer.feeds import Added, Feeds
from peer.journal import JournalError, JournalFullError
from protocols.ack import AckEntry, SignedAck
from protocols.cid import CID
from protocols.errors import LocalProtocolError
from protocols.feed import Place, conflict
from protocols.journal import (
    HEADER_BYTES,
    Entry,
    RecordBody,
    Scanned,
    decode_header,
    scan,
)
from protocols.limits import (
    CUT_AFTER_S,
    CUT_REPORT_AFTER_S,
    CUT_START_S,
    MAX_EPOCH,
    MAX_EPOCH_LEAP_S,
)
from protocols.record import block
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

OWNER, AUTHOR = key(1), key(2)


async def _append(feeds: Feeds, *numbers: int, kind: str = "test") -> list[CID]:
    return [await feeds.append(record(OWNER, number, kind)) for number in numbers]


async def test_a_record_is_named_by_its_content_and_counted(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        cids = await _append(feeds, 1, 2)

        assert cids == [cid_of(record(OWNER, number)) for number in (1, 2)]
        assert feeds.next_sequence == 2
        assert feeds.epoch == START_US // 1_000_000
        assert feeds.heads() == []


async def test_a_cut_makes_a_valid_bundle_of_the_records_so_far(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await _append(feeds, 1, 2)
        first = await feeds.cut()
        await _append(feeds, 3)
        second = await feeds.cut()

        assert first is not None
        assert second is not None
        assert second.header.previous == first.cid
        assert bundles_of(feeds) == [first, second]
        assert await feeds.cut() is None
        assert feeds.place == (feeds.epoch, 3)


async def test_a_record_of_another_author_is_refused(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        with pytest.raises(LocalProtocolError):
            await feeds.append(record(AUTHOR))


async def test_a_large_bundle_is_cut_in_parts(tmp_path: Path) -> None:
    told: list[JournalError] = []
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        for number in range(70):
            await feeds.append_soon(record(OWNER, number), told.append)
        await feeds.append(record(OWNER, 70, size=60_000))
        await feeds.append(record(OWNER, 71, size=60_000))
        await feeds.append(record(OWNER, 72))
        await feeds.cut_all()

        assert [len(made.records) for made in bundles_of(feeds)] == [64, 8, 1]
        assert told == []


async def test_everything_is_there_after_a_restart_and_uncut_records_are_cut_later(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1, 2)
        await feeds.cut()
        await _append(feeds, 3)
        await feeds.add_all(chain_of(AUTHOR, 2))
        root, heads, place = feeds.state_root(), feeds.heads(), feeds.place

    async with running_feeds(path, OWNER) as feeds:
        assert (feeds.state_root(), feeds.heads(), feeds.place) == (root, heads, place)
        assert feeds.next_sequence == 3
        late = await feeds.cut()

        assert late is not None
        assert late.records == (record(OWNER, 3).encode(),)
        assert len(bundles_of(feeds)) == 4


async def test_a_record_that_was_added_twice_is_there_twice_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1, 1, 2, 1)
        await feeds.cut()
        held = bundles_of(feeds)

    async with running_feeds(path, OWNER) as feeds:
        assert bundles_of(feeds) == held
        assert feeds.place == (feeds.epoch, 4)


async def test_bundles_are_cut_when_their_oldest_record_is_ten_seconds_old(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds, trio.open_nursery() as nursery:
        await nursery.start(feeds.run)
        started = trio.current_time()
        await _append(feeds, 1)
        await trio.sleep(1)
        await _append(feeds, 2)
        await feeds.wait_changed(0)

        assert trio.current_time() - started == pytest.approx(CUT_AFTER_S)
        assert [len(made.records) for made in bundles_of(feeds)] == [2]
        nursery.cancel_scope.cancel()


async def test_a_report_hurries_the_records_before_it(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds, trio.open_nursery() as nursery:
        await nursery.start(feeds.run)
        await _append(feeds, 1)
        await trio.sleep(1)
        started = trio.current_time()
        await _append(feeds, 2, kind="error.report")
        await feeds.wait_changed(0)

        assert trio.current_time() - started == pytest.approx(CUT_REPORT_AFTER_S)
        assert [len(made.records) for made in bundles_of(feeds)] == [2]
        nursery.cancel_scope.cancel()


async def test_a_full_bundle_is_cut_at_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds, trio.open_nursery() as nursery:
        await nursery.start(feeds.run)
        started = trio.current_time()
        await _append(feeds, *range(64))
        await feeds.wait_changed(0)

        assert trio.current_time() == started
        nursery.cancel_scope.cancel()


async def test_a_refused_record_gives_its_number_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await _append(feeds, 1)
        with monkeypatch.context() as patch:
            _fill_disk(patch)
            async with trio.open_nursery() as nursery:
                for number in (2, 3):
                    nursery.start_soon(_expect_full, feeds, number)
        await _append(feeds, 4)
        made = await feeds.cut()

        assert made is not None
        assert made.records == tuple(record(OWNER, number).encode() for number in (1, 4))


async def test_a_cut_that_the_disk_refuses_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await _append(feeds, 1)
        with monkeypatch.context() as patch:
            _fill_disk(patch)
            with pytest.raises(JournalFullError):
                await feeds.cut()
        nothing = bundles_of(feeds)
        made = await feeds.cut()

        assert nothing == []
        assert bundles_of(feeds) == [made]


async def test_blocks_are_remembered_across_restarts(tmp_path: Path) -> None:
    item = block(OWNER.public, "environment", {"python": "3.11"})
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        assert not feeds.holds_block(cid_of(item))
        await feeds.append(item)

    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        assert feeds.holds_block(cid_of(item))


async def test_a_bundle_that_comes_again_is_a_duplicate_and_changes_nothing(tmp_path: Path) -> None:
    made = bundle(AUTHOR)
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        first = await feeds.add(made)
        end = feeds.journal_end

        assert first is Added.NEW
        assert await feeds.add(made) is Added.DUPLICATE
        assert await feeds.add_all([made, made]) == [Added.DUPLICATE] * 2
        assert feeds.journal_end == end


async def test_several_sources_may_bring_a_bundle_at_the_same_time(tmp_path: Path) -> None:
    made = bundle(AUTHOR)
    outcomes: list[Added] = []

    async def bring(feeds: Feeds) -> None:
        outcomes.append(await feeds.add(made))

    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(bring, feeds)

        assert sorted(outcome.name for outcome in outcomes) == ["DUPLICATE"] * 4 + ["NEW"]
        assert bundles_of(feeds) == [made]


async def test_bundles_out_of_order_show_holes_until_the_rest_comes(tmp_path: Path) -> None:
    bundles = chain_of(AUTHOR, 4)
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await feeds.add_all([bundles[3], bundles[1]])
        holes = dict(feeds.holes)
        await feeds.add_all([bundles[0], bundles[2]])

        assert holes == {(AUTHOR.public, 1): [(0, 3), (6, 9)]}
        assert feeds.holes == {}
        assert feeds.last_seen(AUTHOR.public) == (1, 12)


async def test_any_order_of_arrival_ends_in_the_same_state(tmp_path: Path) -> None:
    bundles = [*chain_of(AUTHOR, 5), *chain_of(key(3), 3), bundle(AUTHOR, marker=1)]
    roots: set[CID] = set()

    for seed in range(5):
        rng = random.Random(seed)
        shuffled = rng.sample(bundles, len(bundles)) + rng.sample(bundles, 3)
        path = tmp_path / str(seed)
        async with running_feeds(path, OWNER) as feeds:
            for start in range(0, len(shuffled), 4):
                await feeds.add_all(shuffled[start : start + 4])
            roots.add(feeds.state_root())
        async with running_feeds(path, OWNER) as feeds:
            roots.add(feeds.state_root())

    assert len(roots) == 1


async def test_a_fork_keeps_both_sides_and_can_be_proven(tmp_path: Path) -> None:
    one, other = bundle(AUTHOR, marker=1), bundle(AUTHOR, marker=2)
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        outcomes = [await feeds.add(one), await feeds.add(other)]

        assert outcomes == [Added.NEW, Added.FORK]
        assert len(bundles_of(feeds)) == 2
        proof = feeds.forks[AUTHOR.public, 1]
        assert conflict(proof.one, proof.other)

    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        assert list(feeds.forks) == [(AUTHOR.public, 1)]


async def test_a_bundle_damaged_on_disk_is_left_out_and_the_rest_is_served(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    bundles = chain_of(AUTHOR, 3)
    async with running_feeds(path, OWNER) as feeds:
        await feeds.add_all(bundles)
        _flip(path, feeds.journal_end - 10)

        assert bundles_of(feeds) == bundles[:2]

    async with running_feeds(path, OWNER) as feeds:
        assert feeds.last_seen(AUTHOR.public) == (1, 6)
        assert await feeds.add(bundles[2]) is Added.NEW


async def test_a_lost_journal_goes_on_in_a_higher_epoch(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "old", OWNER) as feeds:
        await _append(feeds, 1, 2)
        old = await feeds.cut()
        epoch, place = feeds.epoch, feeds.place

    async with running_feeds(tmp_path / "new", OWNER) as feeds:
        await _append(feeds, 3)
        feeds.start_epoch_above(*place)
        await _append(feeds, 4)
        new = await feeds.cut()

        assert old is not None
        assert new is not None
        assert feeds.epoch > epoch
        assert new.header.previous is None
        assert new.header.first_sequence == 0
        assert new.records == tuple(record(OWNER, number).encode() for number in (3, 4))

    async with running_feeds(tmp_path / "new", OWNER) as feeds:
        assert feeds.place == (new.header.epoch, 2)
        assert bundles_of(feeds) == [new]


async def test_neighbours_who_saw_no_more_than_we_signed_change_nothing(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await _append(feeds, 1, 2)
        await feeds.cut()
        epoch = feeds.epoch
        for seen in ((epoch, 2), (epoch, 1), (epoch - 1, 500), (-1, 0), (1 << 60, 0)):
            feeds.start_epoch_above(*seen)

        assert feeds.epoch == epoch


async def test_our_own_forgotten_bundle_is_taken_back_and_never_signed_over(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "old", OWNER) as feeds:
        await _append(feeds, 1, 2)
        forgotten = await feeds.cut()
        assert forgotten is not None

    async with running_feeds(tmp_path / "new", OWNER) as feeds:
        await _append(feeds, 3)
        outcome = await feeds.add(forgotten)
        fresh = await feeds.cut()

        assert outcome is Added.NEW
        assert fresh is not None
        assert fresh.header.epoch > forgotten.header.epoch
        assert feeds.forks == {}

    async with running_feeds(tmp_path / "new", OWNER) as feeds:
        assert feeds.place == (fresh.header.epoch, 1)
        assert len(bundles_of(feeds)) == 2


async def test_a_record_lost_in_the_middle_does_not_stop_those_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1)
        damaged_from = feeds.journal_end
        await _append(feeds, 2)
        await _append(feeds, 3, 4)
    _flip(path, damaged_from + 30)

    async with running_feeds(path, OWNER) as feeds:
        await feeds.cut_all()
        made = bundles_of(feeds)

        assert [m.records for m in made] == [
            (record(OWNER, 1).encode(),),
            (record(OWNER, 3).encode(), record(OWNER, 4).encode()),
        ]
        assert made[0].header.epoch < made[1].header.epoch
        assert feeds.forks == {}
        root = feeds.state_root()

    async with running_feeds(path, OWNER) as feeds:
        assert feeds.state_root() == root


async def test_a_signed_range_is_never_signed_again_although_its_records_rotted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        damaged_from = feeds.journal_end
        await _append(feeds, 1, 2)
        made = await feeds.cut()
        assert made is not None
    _flip(path, damaged_from + 30)

    async with running_feeds(path, OWNER) as feeds:
        assert bundles_of(feeds) == []
        await _append(feeds, 3)
        following = await feeds.cut()

        assert following is not None
        assert following.header.first_sequence == 2
        assert await feeds.add(made) is Added.NEW
        assert bundles_of(feeds) == [made, following]
        assert feeds.forks == {}


async def test_acknowledgements_are_remembered_and_never_exceed_what_isbundles_of(
    tmp_path: Path,
) -> None:
    aggregator = key(9)
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await _append(feeds, 1, 2)
        await feeds.cut()
        own = (OWNER.public, feeds.epoch)
        for place in (1, 5, 2, 1):
            await feeds.acknowledge(SignedAck.sign(aggregator, [AckEntry(*own, place)], START_US))

        assert feeds.acked == {own: 2}
        assert feeds.acknowledged_sequence() == 2

    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        assert feeds.acked == {own: 2}


async def test_of_an_acknowledgement_only_what_was_held_here_counts(tmp_path: Path) -> None:
    aggregator, path = key(9), tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1, 2)
        await feeds.cut()
        own = (OWNER.public, feeds.epoch)
        true, forged = AckEntry(*own, 2), AckEntry(*own, 1 << 62)
        unknown = AckEntry(aggregator.public, 1, 5)
        await feeds.acknowledge(SignedAck.sign(aggregator, [forged, true, unknown], START_US))
        assert feeds.acked == {own: 2}

    async with running_feeds(path, OWNER) as feeds:
        walked = walk(feeds._journal.inspect(feeds.journal_end), OWNER.public)
        assert feeds.acked == {own: 2}

    assert walked.acked == [true]
    assert walked.faults == []


async def test_a_cut_that_is_cancelled_is_either_made_or_not(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await _append(feeds, 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await feeds.cut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feeds.cut)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await feeds.cut_all()

        assert len(bundles_of(feeds)) == 1
        assert feeds.forks == {}


async def test_followers_see_bundles_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    bundles = chain_of(AUTHOR, 2)
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await feeds.add(bundles[1])
        await _append(feeds, 1)
        own = await feeds.cut()
        await feeds.add(bundles[0])

        arrived = [a.bundle for a in feeds.arrivals(0) if a.bundle is not None]

        assert own is not None
        assert arrived == [bundles[1].encode(), own.encode(), bundles[0].encode()]


async def test_an_older_journal_brought_back_does_not_fork_what_others_saw(tmp_path: Path) -> None:
    path, copy = tmp_path / "journal", tmp_path / "copy"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1)
        await feeds.cut()
        shutil.copytree(path, copy)
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 2, 3)
        seen = await feeds.cut()
        assert seen is not None
        place = feeds.place

    async with running_feeds(copy, OWNER) as feeds:
        feeds.start_epoch_above(*place)
        await _append(feeds, 4)
        await feeds.cut()
        await feeds.add(seen)

        assert feeds.forks == {}
        assert len(bundles_of(feeds)) == 3


async def test_the_records_of_a_journal_say_their_place(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1, 2)
        epoch = feeds.epoch

    journal = open_journal(path)
    places = [RecordBody.decode(b)[:2] for _, _, kind, b in journal.scan() if kind is Entry.RECORD]
    journal.close()
    assert places == [(epoch, 0), (epoch, 1)]


async def test_a_clock_before_1970_starts_a_feed_all_the_same(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal")

    feeds = Feeds(journal, OWNER, effects(start_us=-5))

    assert feeds.epoch == 1
    journal.close()


async def test_a_successor_of_an_unknown_branch_is_kept_and_flagged(tmp_path: Path) -> None:
    one, other = bundle(AUTHOR, marker=1), bundle(AUTHOR, Place(1, 0, None), marker=2)
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await feeds.add(one)

        assert await feeds.add(after(other, author=AUTHOR)) is Added.FORK


@pytest.mark.parametrize("behind", [0, 1])
async def test_a_signature_that_the_journal_lost_is_not_made_again(
    tmp_path: Path, behind: int
) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1, 2)
        signed_at = feeds.journal_end
        shown = await feeds.cut()
        assert shown is not None
        await _append(feeds, *range(3, 3 + behind))
    _flip(path, signed_at + 30)

    async with running_feeds(path, OWNER) as feeds:
        await feeds.cut_all()
        again = bundles_of(feeds)
        await feeds.add(shown)

        assert all(made.header.epoch > shown.header.epoch for made in again)
        assert sum(len(made.records) for made in again) == 2 + behind
        assert feeds.forks == {}


async def test_a_start_that_ends_before_the_feed_has_moved_does_not_forget_a_torn_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = os.ftruncate

    def cut_and_die(fd: int, length: int) -> None:
        cut(fd, length)
        raise KeyboardInterrupt

    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1)
        signed_at = feeds.journal_end
        shown = await feeds.cut()
        assert shown is not None
    _flip(path, signed_at + 30)
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", cut_and_die)
        with pytest.raises(KeyboardInterrupt):
            open_journal(path)
    open_journal(path).close()  # and this one writes nothing to it

    epochs: list[int] = []
    for _ in range(2):
        async with running_feeds(path, OWNER) as feeds:
            await feeds.cut_all()
            epochs.append(feeds.epoch)
            again = bundles_of(feeds)

            assert all(made.header.epoch > shown.header.epoch for made in again)
            assert sum(len(made.records) for made in again) == 1
    assert len(set(epochs)) == 1  # once is enough


async def test_a_damage_that_was_dealt_with_begins_no_further_epoch(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1)
        damaged_from = feeds.journal_end
        await _append(feeds, 2, 3)
    _flip(path, damaged_from + 30)
    async with running_feeds(path, OWNER) as feeds:
        await trio.testing.wait_all_tasks_blocked()
        epoch, following = feeds.epoch, feeds.next_sequence

    async with running_feeds(path, OWNER) as feeds:
        assert (feeds.epoch, feeds.next_sequence) == (epoch, following)


@pytest.mark.parametrize(("is_met", "waited_s"), [(False, CUT_START_S), (True, 1)])
async def test_after_a_restart_nothing_is_signed_before_somebody_could_say_what_they_saw(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, is_met: bool, waited_s: float
) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1)

    async with running_feeds(path, OWNER) as feeds, trio.open_nursery() as nursery:
        started = trio.current_time()
        await nursery.start(feeds.run)
        await trio.sleep(1)
        if is_met:
            feeds.allow_cutting()
        await feeds.wait_changed(0)

        assert trio.current_time() - started == pytest.approx(waited_s)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_move_that_the_disk_refused_is_on_it_before_anything_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_restarted: bool
) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await _append(feeds, 1)
        seen = feeds.epoch
        with monkeypatch.context() as patch:
            _fill_disk(patch)
            feeds.start_epoch_above(seen, 5)
            feeds.start_epoch_above(seen + 4, 5)
            await trio.testing.wait_all_tasks_blocked()
        await _append(feeds, 2)
        if not is_restarted:
            await feeds.cut_all()
            entries = _kinds(path)
            assert Entry.EPOCH not in entries[entries.index(Entry.HEADER) :]
            assert entries.count(Entry.EPOCH) == 2

    async with running_feeds(path, OWNER) as feeds:
        await feeds.cut_all()
        made = bundles_of(feeds)

        assert all(bundle.header.epoch > seen for bundle in made)
        assert [record for bundle in made for record in bundle.records] == [
            record(OWNER, number).encode() for number in (1, 2)
        ]


async def test_a_move_waits_for_room_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        await _append(feeds, 1)
        seen = feeds.epoch
        with monkeypatch.context() as patch:
            patch.setattr("peer.backlog.MAX_JOURNAL_BACKLOG_BYTES", -1)
            feeds.start_epoch_above(seen, 5)
        made = await feeds.cut()

        assert made is not None
        assert made.header.epoch > seen


async def test_a_neighbour_that_lies_cannot_use_up_the_epochs(tmp_path: Path) -> None:
    year = MAX_EPOCH_LEAP_S
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        epoch = feeds.epoch
        feeds.start_epoch_above(MAX_EPOCH - 2, 1)
        feeds.start_epoch_above(epoch + year + 1, 1)
        untouched = feeds.epoch
        for more in range(5):
            feeds.start_epoch_above(epoch + year, more)
            feeds.start_epoch_above(feeds.epoch, 1)

        assert untouched == epoch
        assert feeds.epoch <= epoch + year + 1


async def test_a_feed_of_many_epochs_leaves_room_for_newcomers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.known_epochs.MAX_EPOCHS_PER_FEED", 3)
    crowd = [bundle(AUTHOR, Place(epoch, 0, None)) for epoch in range(1, 6)]
    newcomer = bundle(key(3))
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        outcomes = await feeds.add_all([*crowd, newcomer, after(crowd[0], author=AUTHOR)])

        assert outcomes == [*[Added.NEW] * 3, *[Added.REFUSED] * 2, Added.NEW, Added.NEW]

    async with running_feeds(path, OWNER) as feeds:
        assert await feeds.add(crowd[4]) is Added.REFUSED
        assert len(feeds.chains) == 4


def _fill_disk(patch: pytest.MonkeyPatch) -> None:

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(os, "pwrite", refuse)


async def _expect_full(feeds: Feeds, number: int) -> None:
    with pytest.raises(JournalFullError):
        await feeds.append(record(OWNER, number))


def _kinds(path: Path) -> list[int]:
    """The entries of a journal that is in use."""
    content = segment_of(path).read_bytes()
    salt = decode_header(content)
    assert salt is not None
    found = scan(content, salt, HEADER_BYTES)
    return [entry.kind for entry in found if isinstance(entry, Scanned)]


def _flip(path: Path, position: int) -> None:
    content = bytearray(segment_of(path).read_bytes())
    content[position] ^= 1
    segment_of(path).write_bytes(content)
