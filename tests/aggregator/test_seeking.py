"""An aggregator asks for records that others name and that have not arrived."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trio.testing import MockClock

from aggregator.seeking import Seeking
from aggregator.store import Store
from peer.index import Index
from peer.service import running
from protocols.feed import Place, sign_bundle
from protocols.limits import MAX_SEEK_TRIES, MAX_SOUGHT, SEEK_RETRY_S_MAX, SEEK_RETRY_S_MIN
from protocols.record import Record
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, Peer, meet
from tests.support.feeds import bundles_of, chain_of, cid_of, effects, key, record
from tests.unit.test_tombstone import tombstone


def seeking_at(aggregator: Peer, folder: Path) -> Seeking:
    index = Index(aggregator.journal, folder / "index", aggregator.key.public, Store.open)
    return Seeking(index, aggregator.feeds, aggregator.exchange, effects())


async def test_what_is_missing_is_asked_for_by_name_and_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bundles = chain_of(key(7), 3)
    shy = replace(OPEN, may_pull=lambda _: False)
    async with Meeting(tmp_path).peers(node=shy, aggregator=FOLLOWING) as (node, aggregator):
        await node.feeds.add_all(bundles)
        await meet(node, aggregator)
        seeking = seeking_at(aggregator, tmp_path)

        await seeking.seek([bundles[1].header.digests[0]])

        assert bundles_of(aggregator.feeds) == [bundles[1]]
        status = seeking.status()
        assert (status["dangling"], status["tries"], status["found"]) == (0, 1, 1)


async def test_what_nobody_has_is_asked_for_again_only_after_a_pause(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        seeking, told = seeking_at(aggregator, tmp_path), list[dict[str, Any]]()
        for _ in range(3):
            await seeking.seek([bytes(32)])
            told.append(seeking.status())
        autojump_clock.jump(SEEK_RETRY_S_MIN)
        await seeking.seek([bytes(32)])

    assert [each["tries"] for each in told] == [1, 1, 1]
    assert seeking.status()["tries"] == 2
    assert seeking.status()["dangling"] == 1


async def test_of_what_a_peer_has_the_header_alone_is_sought_on_and_given_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    [whole] = chain_of(key(7), 1)
    bodiless = whole.with_records([b""] * len(whole.records))
    shy = replace(OPEN, may_pull=lambda _: False)
    async with Meeting(tmp_path).peers(node=shy, aggregator=FOLLOWING) as (node, aggregator):
        await node.feeds.add(bodiless)
        await meet(node, aggregator)
        seeking = seeking_at(aggregator, tmp_path)
        for _ in range(MAX_SEEK_TRIES + 2):
            await seeking.seek([whole.header.digests[0]])
            autojump_clock.jump(SEEK_RETRY_S_MAX)
        status = seeking.status()

    assert (status["found"], status["given_up"], status["tries"]) == (0, 1, MAX_SEEK_TRIES)


async def test_what_was_redacted_is_not_sought(tmp_path: Path, autojump_clock: MockClock) -> None:
    parent = record(key(7), 1)
    child = Record(
        author=key(7).public,
        nonce=b"c",
        kind="test",
        start_us=1,
        informed_by=(cid_of(parent),),
    )
    named = sign_bundle(key(7), Place(1, 0, None), [parent.encode(), child.encode()], 1)
    burial = tombstone(key(7), "author", cid_of(parent)).encode()
    after = sign_bundle(key(7), Place(1, 2, named.cid), [burial], 1)
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (_node, aggregator):
        index = Index(aggregator.journal, tmp_path / "index", aggregator.key.public, Store.open)
        seeking = Seeking(index, aggregator.feeds, aggregator.exchange, effects())
        await aggregator.feeds.add(named.with_records([b"", child.encode()]))
        async with running(index.run):
            await index.catch_up()
            early = await seeking.missing()
            await aggregator.feeds.add(after)
            await index.catch_up()
            late = await seeking.missing()

    assert early == [cid_of(parent).digest]
    assert late == []


async def test_a_question_is_bounded_however_much_is_missing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        seeking = seeking_at(aggregator, tmp_path)

        await seeking.seek([number.to_bytes(32, "big") for number in range(10 * MAX_SOUGHT)])

        assert seeking.status()["tries"] == MAX_SOUGHT


async def test_what_came_by_itself_is_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (_node, aggregator):
        seeking = seeking_at(aggregator, tmp_path)
        await seeking.seek([bytes(32)])
        await seeking.seek([])

        assert seeking.status()["dangling"] == 0
