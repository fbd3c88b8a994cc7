"""How the bytes of what was let go of leave the disk."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from node.accepted import Acceptance, AcceptedJobs
from node.config import Records
from node.retention import needed_by, retention_of
from node.salts import Salts
from peer.feeds import Feeds
from peer.journal import Journal
from peer.service import running
from protocols.cid import CID
from protocols.feed import Place, sign_bundle
from protocols.journal import Damage, Entry, RecordBody
from protocols.membership import AGGREGATOR as AGGREGATOR_ROLE
from protocols.record import Record
from tests.support.feeds import (
    START_US,
    after,
    bundles_of,
    chain_of,
    cid_of,
    effects,
    key,
    open_journal,
    record,
    running_feeds,
)
from tests.support.retaining import (
    OWNER,
    acknowledge,
    acknowledge_of,
    entries,
    index_of,
    journal_of,
    retention,
    write,
)
from tests.support.rot import flip_at
from tests.unit.test_tombstone import MESH, certificate, tombstone


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


@pytest.mark.usefixtures("small_segments")
async def test_a_sweep_does_not_forget_damage_behind_the_latest_signature(tmp_path: Path) -> None:
    """A later one may have been in it, for all that the journal says."""
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        await write(feeds, range(2))
        signed = feeds.place
        await feeds.add_all(chain_of(key(3), 60, count=8))
        await acknowledge_of(feeds, key(3), 480)
        flip_at(path, next(iter(feeds.chains[key(3).public, 1])).offset + 30)
        await retention(journal_of(feeds), feeds).enforce()
        dropped = feeds.dropped_records
    async with running_feeds(path, OWNER) as feeds:
        assert len(journal_of(feeds).damage) == 1
        assert feeds.place > signed

    assert dropped > 0
