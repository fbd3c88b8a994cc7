"""What a node shows of records of which it has the headers alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.cid import CID
from protocols.feed import Place, sign_bundle
from tests.node.test_redaction import AUTHOR, marked, signed, without
from tests.support.feeds import cid_of, key, record
from tests.support.holding import Held, held
from tests.support.retaining import OWNER
from tests.unit.test_tombstone import tombstone

OTHER = key(9)


async def name(node: Held, *authors: int) -> CID:
    """Sign headers that name one and the same record, and redact it in each of these feeds."""
    cid = cid_of(marked(AUTHOR))
    for number in authors:
        author = OWNER if number == 0 else key(number)
        epoch = 9 if author is OWNER else 1
        named = sign_bundle(author, Place(epoch, 0, None), [marked(AUTHOR).encode()], 1)
        burial = tombstone(author, "author", cid).encode()
        said = sign_bundle(author, Place(epoch, 1, named.cid), [burial], 1)
        await node.feeds.add_all([named.with_records([b""]), said])
    await node.index.catch_up()
    return cid


async def test_a_record_whose_content_came_later_is_listed_once(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        whole = signed(OWNER, record(OWNER, 1), record(OWNER, 2))
        await node.feeds.add(without(whole, 1))
        await node.index.catch_up()
        early = await node.read("/records")
        await node.feeds.add(whole)
        await node.index.catch_up()
        late = await node.read("/records")

    assert sorted(row["status"] for row in early) == ["absent", "ok"]
    assert [row["status"] for row in late] == ["ok", "ok"]
    assert {row["cid"] for row in late} == {row["cid"] for row in early}


async def test_of_a_redacted_record_that_one_feed_names_the_place_is_shown(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        cid = await name(node, 9)
        shown = await node.read("/records/{cid}", cid=str(cid))

    assert (shown["peer"], shown["epoch"], shown["sequence"]) == (OTHER.peer_id, 1, 0)
    assert shown["redacted"]["signed_by"] == OTHER.peer_id


@pytest.mark.parametrize("order", [(8, 9), (9, 8)])
async def test_of_a_redacted_record_that_several_feeds_name_all_are_told(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    async with held(tmp_path) as node:
        cid = await name(node, *order)
        shown = await node.read("/records/{cid}", cid=str(cid))

    assert (shown["peer"], shown["epoch"], shown["sequence"]) == (None, None, None)
    assert shown["redacted"]["signed_by"] is None
    feeds = sorted([key(8).public, OTHER.public])
    assert shown["redacted"]["named_by"] == [
        next(each.peer_id for each in (key(8), OTHER) if each.public == feed) for feed in feeds
    ]


async def test_whoever_names_a_record_of_ours_too_does_not_hide_that_it_is_ours(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as node:
        cid = await name(node, 8, 0, 9)
        shown = await node.read("/records/{cid}", cid=str(cid))

    assert (shown["peer"], shown["redacted"]["named_by"]) == (OWNER.peer_id, [OWNER.peer_id])
