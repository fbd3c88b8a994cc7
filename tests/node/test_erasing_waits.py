"""Erasing, where something has to come before it or keeps it from its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from peer.bodies import Bodies
from peer.journal import Journal, JournalFullError
from protocols.chain import Chain
from protocols.journal import Damage, Entry
from tests.node.test_redaction import AUTHOR, OWNER, marked, signed, up
from tests.support.feeds import bundles_of, cid_of, record
from tests.support.rot import flip
from tests.unit.test_tombstone import tombstone


async def test_a_tombstone_that_a_kill_left_unsigned_is_kept_twice_before_it_erases(
    tmp_path: Path,
) -> None:
    async with up(tmp_path, erases=False) as peer:
        cid = await peer.feeds.append(marked(OWNER))
        await peer.feeds.cut_all()
        [whole] = bundles_of(peer.feeds)
        said = await peer.feeds.append(tombstone(OWNER, "author", cid))
    async with up(tmp_path) as peer:
        await peer.erased()
        gone, kept = peer.files_with_marker(), set(peer.feeds.bodies.kept)
        await peer.feeds.cut_all()
        await peer.feeds.append(record(OWNER, 50))
        await peer.feeds.cut_all()
    flip(tmp_path / "journal", b"record.tombstone")
    async with up(tmp_path) as peer:
        await peer.feeds.add(whole)
        back = peer.files_with_marker()

    assert (gone, kept) == ([], {said})
    assert back == []


async def test_nothing_is_erased_by_a_tombstone_that_rotted_before_it_was_kept(
    tmp_path: Path,
) -> None:
    whole = signed(AUTHOR, marked(AUTHOR), record(AUTHOR, 1))
    said = signed(AUTHOR, tombstone(AUTHOR, "author", cid_of(marked(AUTHOR))), before=whole)
    also = signed(AUTHOR, tombstone(AUTHOR, "author", cid_of(record(AUTHOR, 1))), before=said)
    async with up(tmp_path, erases=False) as peer:
        await peer.feeds.add_all([whole, said, also])
        flip(tmp_path / "journal", b"record.tombstone")
        link = next(
            each for each in peer.feeds.chains[AUTHOR.public, 1] if each.first_sequence == 2
        )
        peer.feeds.quarantine([Damage(link.offset, link.offset + 1)])
        await peer.redactor.erase(peer.feeds.bodies.pending)
        left, pending = peer.files_with_marker(), peer.feeds.bodies.pending
        await peer.feeds.add(said)
        await peer.redactor.erase(peer.feeds.bodies.pending)
        gone = peer.files_with_marker()

    assert left
    assert pending == {cid_of(marked(AUTHOR))}
    assert gone == []


async def test_what_cannot_be_kept_yet_keeps_nothing_else_from_being_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.redactor.CUT_RETRY_S", 0.001)
    monkeypatch.setattr("peer.bodies.MAX_ERASED_TOGETHER", 1)
    whole = signed(AUTHOR, record(AUTHOR, 1), marked(AUTHOR))
    said = signed(AUTHOR, tombstone(AUTHOR, "author", cid_of(record(AUTHOR, 1))), before=whole)
    also = signed(AUTHOR, tombstone(AUTHOR, "author", cid_of(marked(AUTHOR))), before=said)
    async with up(tmp_path, erases=False) as peer:
        await peer.feeds.add_all([whole, said, also])
        flip(tmp_path / "journal", b"record.tombstone")
        link = next(
            each for each in peer.feeds.chains[AUTHOR.public, 1] if each.first_sequence == 2
        )
        peer.feeds.quarantine([Damage(link.offset, link.offset + 1)])
        async with trio.open_nursery() as nursery:
            await nursery.start(peer.redactor.run)
            with trio.fail_after(30):
                while len(peer.feeds.bodies.pending) > 1:  # noqa: ASYNC110 - threads are at work
                    await trio.sleep(0.005)
            nursery.cancel_scope.cancel()

    assert peer.files_with_marker() == []


async def test_a_full_disk_at_the_last_step_of_erasing_forgets_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.redactor.CUT_RETRY_S", 0.001)
    append, full, told = Journal.append, [1], list[int]()

    async def refused_once(self: Journal, kind: Entry, body: bytes) -> int:
        if kind is Entry.ERASED and full:
            full.pop()
            raise JournalFullError("the disk is full")
        return await append(self, kind, body)

    async def on_erased() -> None:
        told.append(1)

    monkeypatch.setattr(Journal, "append", refused_once)
    async with up(tmp_path) as peer:
        peer.redactor.on_erased = on_erased
        cid = await peer.feeds.append(marked(OWNER))
        await peer.feeds.cut_all()
        await peer.feeds.append(tombstone(OWNER, "author", cid))
        await peer.feeds.cut_all()
        await peer.erased()
        redactions = peer.feeds.bodies.redactions

    assert redactions.of(cid) is not None
    assert redactions.open_count == 0
    assert told == [1]


def test_a_tombstone_that_is_taken_in_again_does_not_hide_what_came_since() -> None:
    said = tombstone(AUTHOR, "author", cid_of(marked(AUTHOR)))
    whole = signed(AUTHOR, said, marked(AUTHOR))
    chains = {(AUTHOR.public, 1): Chain()}
    bodies = Bodies(None, chains)
    bodies.note(whole.header, whole.cid, whole.records, 10)
    bodies.note(whole.header, whole.cid, whole.records, 500)
    bodies.recall(said.encode(), 10)
    bodies.erased([cid_of(marked(AUTHOR))], mark=400)

    assert bodies.pending == {cid_of(marked(AUTHOR))}
