"""What a node finds when it walks its own journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from node.check import Check
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
        self._node = node
        self._bundles = bundles_of(node.feeds)
        self.asked: list[PeerId] = []

    async def seek(self, peer: PeerId, digests: Sequence[bytes]) -> list[Bundle]:
        self.asked.append(peer)
        found = [each for each in self._bundles if set(digests) & set(each.header.digests)]
        await self._node.feeds.add_all(found)
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
