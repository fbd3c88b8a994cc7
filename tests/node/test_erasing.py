"""What redacting does beside rot, retention and many records at once."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
import trio

from node.store import Store
from peer import segments
from peer.index import Index
from peer.retention import Retention
from protocols.ack import AckEntry, SignedAck
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.feed import Bundle
from protocols.journal import Entry, ErasedBody
from protocols.keys import SigningKey
from protocols.limits import MAX_ENTRY_BYTES, MAX_ERASED_AT_ONCE, MAX_TOMBSTONE_RECORDS
from protocols.membership import AGGREGATOR as AGGREGATOR_ROLE
from tests.node.test_redaction import AUTHOR, MARKER, OPERATOR, OWNER, Peer, marked, signed, up
from tests.support.dying import Death
from tests.support.feeds import START_US, bundles_of, cid_of, record
from tests.support.retaining import AGGREGATOR, NOTHING, acknowledge, no_index, retention
from tests.unit.test_tombstone import certificate, tombstone


def rot(peer: Peer) -> None:
    """Flip a bit in the first journal entry that holds a row of zeros."""
    [segment] = (peer.home / "journal").glob("*.segment")
    at = segment.read_bytes().index(bytes(100))
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(b"\1")


async def redact_what_rotted(peer: Peer) -> None:
    """Have a bundle rot, come again whole, and be redacted."""
    whole = signed(AUTHOR, record(AUTHOR, 1, size=200), marked(AUTHOR))
    await peer.feeds.add(whole)
    await peer.index.catch_up()
    rot(peer)
    [link] = peer.feeds.chains[AUTHOR.public, 1]
    assert peer.feeds.read(link) is None
    await peer.feeds.add(whole)
    await bury(peer, whole)


async def bury(peer: Peer, whole: Bundle) -> None:
    said = tombstone(AUTHOR, "author", cid_of(marked(AUTHOR)))
    await peer.feeds.add(signed(AUTHOR, said, before=whole))


async def test_more_is_redacted_at_once_than_one_journal_entry_can_say(tmp_path: Path) -> None:
    numbers = range(MAX_ERASED_AT_ONCE + MAX_TOMBSTONE_RECORDS)
    cids = [CID.of(number.to_bytes(4)) for number in numbers]
    chunks = [cids[at:][:MAX_TOMBSTONE_RECORDS] for at in numbers[::MAX_TOMBSTONE_RECORDS]]
    async with up(tmp_path, erases=False) as peer:
        before = None
        for at in range(0, len(chunks), 15):  # what fits into one bundle
            said = (tombstone(AUTHOR, "author", *chunk) for chunk in chunks[at : at + 15])
            before = signed(AUTHOR, *said, before=before)
            await peer.feeds.add(before)
        pending = peer.feeds.bodies.pending
    async with up(tmp_path) as peer:
        await peer.erased()
        noted = [body for *_, kind, body in peer.redactor.journal.scan() if kind is Entry.ERASED]
    async with up(tmp_path, erases=False) as peer:
        left = peer.feeds.bodies.pending

    assert pending == set(cids)
    assert {cid for body in noted for cid in ErasedBody.decode(body).cids} == pending
    sizes = [len(ErasedBody.decode(body).cids) for body in noted]
    assert sizes == [MAX_ERASED_AT_ONCE, MAX_TOMBSTONE_RECORDS]
    assert max(map(len, noted)) < MAX_ENTRY_BYTES // 4
    assert left == frozenset()


async def test_a_redacted_record_whose_entry_rotted_ends_nothing(tmp_path: Path) -> None:
    async with up(tmp_path) as peer:
        await redact_what_rotted(peer)
        await peer.erased()
        [again, _] = sorted(peer.feeds.chains[AUTHOR.public, 1], key=lambda link: link.offset)
        held = peer.feeds.read(again)
        found = peer.files_with_marker()
    async with up(tmp_path) as peer:
        await peer.erased()

    assert held is not None
    assert list(Bundle.decode(held).absent) == [1]
    assert found == []


async def test_damaged_bytes_that_no_index_knows_may_be_what_is_redacted(tmp_path: Path) -> None:
    whole = signed(AUTHOR, record(AUTHOR, 1, size=200), marked(AUTHOR))
    async with up(tmp_path) as peer:
        await peer.feeds.add_all([whole, signed(OPERATOR, record(OPERATOR, 1))])
        rot(peer)
        await peer.index.rebuild()
        await bury(peer, whole)
        await peer.erased()
        found = peer.files_with_marker()
    async with up(tmp_path) as peer:
        damage = peer.redactor.journal.damage

    assert found == []
    assert len(damage) == 1


@pytest.mark.parametrize("is_met_before", [True, False])
async def test_what_is_redacted_may_be_the_damaged_end_of_a_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_met_before: bool
) -> None:
    whole = signed(AUTHOR, record(AUTHOR, 1, size=200), marked(AUTHOR))
    async with up(tmp_path) as peer:
        await peer.feeds.add(whole)
        await peer.index.catch_up()
        rot(peer)
        monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)  # what comes next lies in another
        if is_met_before:
            [link] = peer.feeds.chains[AUTHOR.public, 1]
            assert peer.feeds.read(link) is None
            await peer.feeds.add(whole)
        await bury(peer, whole)
        with trio.fail_after(60):
            await peer.erased()
        found = peer.files_with_marker()

    assert found == []


async def drop(peer: Peer) -> None:
    """Let go of whatever was acknowledged, in the index too."""
    await peer.index.catch_up()
    await retention(peer.redactor.journal, peer.feeds).enforce()
    await peer.index.catch_up()


async def test_what_was_dropped_before_it_was_redacted_leaves_journal_and_index(
    tmp_path: Path,
) -> None:
    async with up(tmp_path) as peer:
        for each in (marked(OWNER), record(OWNER, 1)):
            await peer.feeds.append(each)
            await peer.feeds.cut()
        await acknowledge(peer.feeds, 1)
        await drop(peer)
        before = peer.files_with_marker()
        await peer.feeds.append(tombstone(OWNER, "author", cid_of(marked(OWNER))))
        await peer.feeds.cut()
        await peer.erased()
    async with up(tmp_path) as peer:
        await peer.index.catch_up()
        rows = await peer.index.ask(lambda store: store.rows())

    assert before
    assert peer.files_with_marker() == []
    assert rows.records == 2  # what came behind it, and the tombstone


async def test_anothers_dropped_record_leaves_the_journal_when_it_is_redacted(
    tmp_path: Path,
) -> None:
    whole = signed(AUTHOR, record(AUTHOR, 1), marked(AUTHOR))
    async with up(tmp_path) as peer:
        last = signed(AUTHOR, record(AUTHOR, 2), before=whole)
        await peer.feeds.add_all([whole, last])
        word = AckEntry(AUTHOR.public, 1, 2, 0)
        await peer.feeds.acknowledge(SignedAck.sign(AGGREGATOR, [word], START_US))
        await drop(peer)
        before = peer.files_with_marker()
        await bury(peer, last)
        await peer.erased()

    assert before
    assert peer.files_with_marker() == []


async def test_a_lasting_record_stays_where_something_was_dropped(tmp_path: Path) -> None:
    role = certificate(OWNER, AGGREGATOR_ROLE)
    async with up(tmp_path) as peer:
        for each in (record(OWNER, 1), role):
            await peer.feeds.append(each)
            await peer.feeds.cut()
        await acknowledge(peer.feeds, 1)
        await drop(peer)
        await peer.feeds.append(tombstone(OWNER, "author", cid_of(role)))
        await peer.feeds.cut()
        await peer.erased()
        kept = [each for bundle in bundles_of(peer.feeds) for each in bundle.records]

    assert role.encode() in kept


async def test_what_is_redacted_after_the_sweep_has_read_it_is_not_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 4_096)
    secret = marked(OWNER)
    read: list[bytes] = []
    async with up(tmp_path, erases=False) as peer:
        journal, feeds = peer.redactor.journal, peer.feeds
        for each in (secret, *(record(OWNER, number, size=1_000) for number in range(20))):
            await feeds.append(each)
            await feeds.cut()
        await acknowledge(feeds, 21)

        async def redact() -> None:
            await feeds.append(tombstone(OWNER, "author", cid_of(secret)))
            await feeds.cut()

        def needed_of(_kind: Entry, body: bytes) -> bytes:
            if MARKER not in body:
                return b""
            read.append(body)
            trio.from_thread.run(redact)
            return body

        await Retention(journal, feeds, NOTHING, needed_of, no_index).enforce()

    assert read == [secret.encode()]
    assert [path for path in peer.files_with_marker() if path.suffix == ".segment"] == []


async def test_an_author_redacts_what_it_has_dropped_if_it_says_so(tmp_path: Path) -> None:
    async with up(tmp_path) as peer:
        redact = peer.redactor.redact
        for each in (marked(OWNER), record(OWNER, 1)):
            await peer.feeds.append(each)
            await peer.feeds.cut()
        with pytest.raises(CoveyError) as early:
            await redact([cid_of(record(OWNER, 9))], "personal", "author")
        await acknowledge(peer.feeds, 1)
        await drop(peer)
        with pytest.raises(CoveyError) as late:
            await redact([cid_of(marked(OWNER))], "personal", "author")
        [told] = await redact([cid_of(marked(OWNER))], "personal", "author", is_dropped=True)
        named = peer.feeds.bodies.redactions.of(cid_of(marked(OWNER)), OWNER.public)

    assert (early.value.code, early.value.hint) == ("unknown-cid", None)
    assert late.value.code == "unknown-cid"
    assert "--dropped" in (late.value.hint or "")
    assert told["is_new"]
    assert named is not None
    assert peer.files_with_marker() == []


@pytest.mark.parametrize("has_dropped", [True, False])
async def test_what_is_redacted_before_it_is_signed_is_erased_when_it_is(
    tmp_path: Path, has_dropped: bool
) -> None:
    cid = cid_of(marked(OWNER))
    async with up(tmp_path) as peer:
        if has_dropped:
            for number in range(2):
                await peer.feeds.append(record(OWNER, number))
                await peer.feeds.cut()
            await acknowledge(peer.feeds, 1)
            await drop(peer)
        await peer.feeds.append(marked(OWNER))
        said = tombstone(OPERATOR, "aggregator", cid)
        await peer.feeds.add(signed(OPERATOR, said, certificate(OPERATOR, AGGREGATOR_ROLE)))
        await peer.erased()
        place, rows = peer.feeds.place, await peer.index.ask(lambda store: store.rows())
    async with up(tmp_path) as peer:
        await peer.index.catch_up()
        again = peer.feeds.place, await peer.index.ask(lambda store: store.rows())
        await peer.feeds.cut_all()
        await peer.erased()
        absent = [gone for each in bundles_of(peer.feeds) for gone in each.absent.values()]
        found = peer.files_with_marker()

    assert again[0] == place
    assert again[1][1:] == rows[1:]
    assert absent == [cid]
    assert found == []


async def test_of_many_records_none_is_redacted_where_one_cannot_be(tmp_path: Path) -> None:
    async with up(tmp_path) as peer:
        cids = [await peer.feeds.append(each) for each in (marked(OWNER), record(OWNER, 1))]
        with pytest.raises(CoveyError, match="there is no record"):
            await peer.redactor.redact([*cids, cid_of(record(OWNER, 2))], "personal", "author")
        before = peer.files_with_marker(), len(peer.feeds.bodies.redactions)
        told = await peer.redactor.redact([*cids, cids[0]], "personal", "author")
        again = await peer.redactor.redact(cids[::-1], "personal", "author")
        kept = bundles_of(peer.feeds)

    assert before[0]
    assert before[1] == 0
    assert [each["cid"] for each in told] == list(map(str, cids))
    assert [each["is_new"] for each in again] == [False, False]
    assert len({each["tombstone"] for each in (*told, *again)}) == 1
    assert peer.files_with_marker() == []
    assert sum(len(each.header.digests) for each in kept) == 3


async def test_however_many_are_redacted_together_the_index_is_written_anew_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.redactor.MAX_ERASED_AT_ONCE", 100)
    asked: list[int] = []
    erase = Index[Store].erase

    async def counted(self: Index[Store], cids: Collection[bytes], before: int) -> None:
        asked.append(len(cids))
        await erase(self, cids, before)

    monkeypatch.setattr(Index, "erase", counted)
    records = [record(AUTHOR, number) for number in range(320)]
    async with up(tmp_path, erases=False) as peer:
        before = None
        for at in range(0, 320, 64):
            before = signed(AUTHOR, *records[at : at + 64], before=before)
            await peer.feeds.add(before)
        for at in range(0, 320, 64):
            said = tombstone(AUTHOR, "author", *map(cid_of, records[at : at + 64]))
            before = signed(AUTHOR, said, before=before)
            await peer.feeds.add(before)
    async with up(tmp_path) as peer:
        await peer.erased()
        kept = [sum(map(bool, each.records)) for each in bundles_of(peer.feeds)]

    assert asked == [320]
    assert kept == [0] * 5 + [1] * 5


@pytest.mark.parametrize("author", [AUTHOR, OWNER])
async def test_an_erasing_that_a_kill_ends_anywhere_is_done_again_to_its_end(
    tmp_path: Path, author: SigningKey
) -> None:
    seen: list[tuple[list[Path], bool]] = []
    is_killed = True
    while is_killed:
        home = tmp_path / f"{len(seen)}"
        home.mkdir()
        death = Death(home, steps_left=len(seen))
        async with up(home, erases=False) as peer:
            await keep_and_bury(peer, author)
            root = peer.feeds.state_root()
            with death.near():
                await peer.redactor.erase(peer.feeds.bodies.pending)
        async with up(death.found or home) as peer:
            await peer.erased()
            found = peer.files_with_marker()
        async with up(death.found or home) as peer:
            seen.append((found, peer.feeds.state_root() == root))
        is_killed = death.found is not None

    assert len(seen) > 8, "journal, index and mark take some steps each"
    assert seen == [([], True)] * len(seen)


async def keep_and_bury(peer: Peer, author: SigningKey) -> None:
    if author == OWNER:
        await peer.feeds.append(marked(OWNER))
        await peer.feeds.cut_all()
    else:
        await peer.feeds.add(signed(author, marked(author)))
    await peer.index.catch_up()
    said = tombstone(OPERATOR, "aggregator", cid_of(marked(author)))
    await peer.feeds.add(signed(OPERATOR, certificate(OPERATOR, AGGREGATOR_ROLE), said))


async def test_what_was_redacted_before_it_was_signed_leaves_the_index_although_a_kill_came_between(
    tmp_path: Path,
) -> None:
    seen: list[list[Path]] = []
    is_killed = True
    while is_killed:
        home = tmp_path / f"{len(seen)}"
        home.mkdir()
        death = Death(home, steps_left=len(seen))
        async with up(home, erases=False) as peer:
            cid = await peer.feeds.append(marked(OWNER))
            said = tombstone(OPERATOR, "aggregator", cid)
            await peer.feeds.add(signed(OPERATOR, certificate(OPERATOR, AGGREGATOR_ROLE), said))
            await peer.redactor.erase(peer.feeds.bodies.pending)
            await peer.feeds.cut_all()
            with death.near():
                await peer.redactor.erase(peer.feeds.bodies.pending)
        async with up(death.found or home) as peer:
            await peer.erased()
            seen.append(peer.files_with_marker())
        is_killed = death.found is not None

    assert seen == [[]] * len(seen)
