"""What a node finds when it walks its own journal."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.check import Check
from peer.absences import LackingBody
from peer.bodies import Bodies
from peer.healing import size_bytes
from protocols.feed import Bundle
from protocols.keys import PeerId
from tests.support.feeds import bundles_of, chain_of, key
from tests.support.holding import Held, held
from tests.support.retaining import AGGREGATOR, OWNER, acknowledge, journal_of, retention, write
from tests.support.rot import flip, flip_at

WORKER = key(9)


def check_of(node: Held, **fields: Any) -> Check:
    return Check(node.index, journal_of(node.feeds), node.feeds, **fields)


class Keeper:
    """An aggregator that keeps the bundles that a node had at a time."""

    def __init__(self, node: Held) -> None:
        self.node = node
        self.bundles = bundles_of(node.feeds)
        self.asked: list[PeerId] = []
        self.names: list[tuple[bytes, ...]] = []

    async def seek(self, peer: PeerId, digests: Sequence[bytes]) -> list[Bundle]:
        self.asked.append(peer)
        self.names.append(tuple(digests))
        found = [each for each in self.bundles if set(digests) & set(each.header.digests)]
        await self.node.feeds.add_all(found)
        return found


def codes(answer: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in answer["findings"]]


async def test_nothing_is_wrong_with_a_node_that_holds_parts_of_a_workers_feed(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as node:
        await node.write("one")
        await node.feeds.add_all(chain_of(WORKER, 3)[1:])
        answer = await check_of(node).run()

    assert answer["findings"] == []
    assert (answer["ok"], answer["records"], answer["feeds"]) == (True, 7, 2)


@pytest.mark.usefixtures("small_segments")
async def test_nothing_is_wrong_with_a_node_that_let_go_of_what_is_kept_elsewhere(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as node:
        await write(node.feeds, range(20), size=5_000)
        await acknowledge(node.feeds, 15)
        await retention(journal_of(node.feeds), node.feeds).enforce()
        answer = await check_of(node).run()

    assert answer["findings"] == []


async def test_damage_is_named_fetched_again_and_then_let_go_of(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        await node.write("rotten")
        await node.write("sound")
        keeper = Keeper(node)
        check = check_of(node, aggregators=(AGGREGATOR.peer_id,), seek=keeper.seek)
        flip(node.path, b"rotten")
        found = await check.run()
        damaged = node.feeds.damaged_bundles, size_bytes(journal_of(node.feeds).damage)
        again = await check.run()
        then = await check.run()
        listed = await node.read("/records")

    [finding] = [each for each in found["findings"] if each["code"] == "damaged"]
    assert (finding["feed"], finding["fetch_from"]) == (OWNER.peer_id, [AGGREGATOR.peer_id])
    assert (finding["first_sequence"], finding["next_sequence"]) == (0, 1)
    assert not found["ok"]
    assert found["fetched"] == 1
    assert damaged == (0, found["damaged_bytes"])
    assert keeper.asked == [AGGREGATOR.peer_id]
    assert (again["findings"], again["healed_bytes"]) == ([], found["damaged_bytes"])
    assert (then["ok"], then["damaged_bytes"]) == (True, 0)
    assert journal_of(node.feeds).damage == []
    assert [row["damaged"] for row in listed] == [None, None]


async def test_what_an_index_that_is_new_does_not_remember_is_named_by_its_header(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as node:
        await node.write("rotten")
        await node.write("sound")
        keeper = Keeper(node)
        flip(node.path, b"rotten")
        await node.index.rebuild()
        check = check_of(node, aggregators=(AGGREGATOR.peer_id,), seek=keeper.seek)
        found = await check.run()
        again = await check.run()

    [finding] = [each for each in found["findings"] if each["code"] == "damaged"]
    assert (finding["first_sequence"], finding["next_sequence"]) == (0, 1)
    assert finding["fetch_from"] == [AGGREGATOR.peer_id]
    assert found["fetched"] == 1
    assert again["ok"]


async def test_damage_to_what_is_no_record_is_told_once(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        await node.write("one")
        at = journal_of(node.feeds).size
        await acknowledge(node.feeds, 1)
        await node.write("two")
        flip_at(node.path, at + 40)
        found = await check_of(node).run()
        again = await check_of(node).run()

    assert codes(found) == ["damaged-bytes"]
    assert again["ok"]


async def test_an_index_that_differs_is_made_anew(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        cid = await node.write("one")
        await node.index.ask(lambda store: store.forget(0, 1 << 40))
        found = await check_of(node).run()
        again = await check_of(node).run()
        listed = await node.read("/records")

    assert codes(found) == ["index-differs"]
    assert again["ok"]
    assert [row["cid"] for row in listed] == [cid]


async def test_what_nobody_has_does_not_keep_the_rest_from_being_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr("node.check.MAX_SOUGHT", 2)
    markers = [f"gone{number}" for number in range(4)] + ["kept"]
    async with held(tmp_path) as node:
        for marker in (*markers, "sound"):
            await node.write(marker)
        keeper = Keeper(node)
        keeper.bundles = keeper.bundles[4:5]
        for marker in markers:
            flip(node.path, marker.encode())
        check = check_of(node, aggregators=(AGGREGATOR.peer_id,), seek=keeper.seek)
        found = await check.run()

    assert found["fetched"] == 1
    assert [len(names) for names in keeper.names] == [2, 2, 1]


async def test_each_is_asked_for_what_it_may_have_and_who_does_not_answer_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.check.MAX_SOUGHT", 1)
    asked: list[tuple[PeerId, tuple[bytes, ...]]] = []

    async def seek(peer: PeerId, digests: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        asked.append((peer, tuple(digests)))

    async with held(tmp_path) as node:
        for marker in ("mine", "more", "sound"):
            await node.write(marker)
        theirs = chain_of(WORKER, 1)[0]
        at = journal_of(node.feeds).size
        await node.feeds.add_all([theirs])
        await node.write("last")
        for marker in (b"mine", b"more"):
            flip(node.path, marker)
        flip_at(node.path, at + 60)
        await check_of(node, aggregators=(AGGREGATOR.peer_id,), seek=seek).run()

    assert sorted(peer for peer, _ in asked) == sorted([AGGREGATOR.peer_id, WORKER.peer_id])
    [names] = [names for peer, names in asked if peer == WORKER.peer_id]
    assert set(names) <= set(theirs.header.digests)


async def test_a_tail_that_was_cut_is_fetched_again_and_told_no_more(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        await node.write("one")
        end = journal_of(node.feeds).size
        await node.write("two")
        await node.feeds.add_all(chain_of(WORKER, 2))
        await node.index.catch_up()
        keeper = Keeper(node)
    [segment] = (tmp_path / "journal").glob("*.segment")
    with segment.open("r+b") as file:
        file.truncate(end + 10)

    async with held(tmp_path) as node:
        keeper.node = node
        check = check_of(node, aggregators=(AGGREGATOR.peer_id,), seek=keeper.seek)
        found, again = await check.run(), await check.run()

    assert {finding["feed"] for finding in found["findings"]} == {OWNER.peer_id, WORKER.peer_id}
    assert found["fetched"] == 3
    assert (again["findings"], again["fetched"]) == ([], 0)
    assert [len(names) for names in keeper.names] == [3]


async def test_a_body_of_ours_that_is_absent_is_asked_for(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        whole = chain_of(OWNER, 1)[0]
        keeper = Keeper(node)
        keeper.bundles = [whole]
        await node.feeds.add(whole.with_records([b"", *whole.records[1:]]))
        check = check_of(node, aggregators=(AGGREGATOR.peer_id,), seek=keeper.seek)
        found, again = await check.run(), await check.run()

    assert codes(found) == ["body-absent"]
    assert found["fetched"] == 1
    assert again["ok"]


async def test_what_bundles_that_come_change_is_read_where_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read in the index's thread failed when a bundle came meanwhile."""
    threads: set[int] = set()
    read = Bodies.lacking.fget
    assert read is not None

    def lacking(bodies: Bodies) -> list[LackingBody]:
        threads.add(threading.get_ident())
        return read(bodies)

    monkeypatch.setattr(Bodies, "lacking", property(lacking))
    async with held(tmp_path) as node:
        await check_of(node).run()

    assert threads == {threading.get_ident()}
