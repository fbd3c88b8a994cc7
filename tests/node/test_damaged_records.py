"""What a node says of records that its disk has damaged."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.backing import Backing
from node.reading import READERS
from node.store import Store
from peer.feeds import Feeds
from peer.index import Index
from peer.service import running
from protocols.feed import Bundle
from protocols.record import Record
from protocols.report import RECORD_KIND
from tests.support.feeds import START_US, running_feeds
from tests.support.reports import a_report
from tests.support.retaining import AGGREGATOR, OWNER, acknowledge, index_of, journal_of
from tests.support.rot import flip


@dataclass
class Held:
    """A node's records and what it answers about them."""

    feeds: Feeds
    index: Index[Store]
    path: Path

    async def write(self, marker: str, kind: str = "tick", **attributes: Any) -> str:
        nonce = marker.encode()
        told = {"marker": marker, **attributes}
        record = Record(
            author=OWNER.public, nonce=nonce, kind=kind, start_us=START_US, attributes=told
        )
        cid = await self.feeds.append(record)
        await self.feeds.cut_all()
        await self.index.catch_up()
        return str(cid)

    async def read(self, route: str, **query: Any) -> Any:
        backing = Backing.of(journal_of(self.feeds), self.feeds)
        return await self.index.ask(lambda store: READERS[route](store, query, backing))


@asynccontextmanager
async def held(folder: Path) -> AsyncGenerator[Held]:
    path = folder / "journal"
    async with running_feeds(path, OWNER) as feeds:
        index = index_of(journal_of(feeds), folder / "index.duckdb")
        async with running(index.run):
            yield Held(feeds, index, path)


async def test_a_record_whose_bytes_rotted_is_listed_and_shown_as_damaged(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        rotten, sound = await node.write("rotten"), await node.write("sound")
        await acknowledge(node.feeds, 2)
        flip(node.path, b"rotten")
        listed = {row["cid"]: row for row in await node.read("/records")}
        shown = await node.read("/records/{cid}", cid=rotten)
        whole = await node.read("/records/{cid}", cid=sound)

    assert {cid: row["status"] for cid, row in listed.items()} == {rotten: "damaged", sound: "ok"}
    for damaged in (listed[rotten], shown):
        assert damaged["damaged"] == {"fetch_from": [AGGREGATOR.peer_id]}
    assert (whole["status"], whole["damaged"]) == ("ok", None)
    assert node.feeds.quarantined == 1


async def test_nobody_is_named_for_a_damaged_record_that_nobody_acknowledged(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as node:
        cid = await node.write("rotten")
        flip(node.path, b"rotten")

        shown = await node.read("/records/{cid}", cid=cid)

    assert shown["damaged"] == {"fetch_from": []}


async def test_an_error_report_whose_bytes_rotted_is_listed_as_damaged(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        for marker in ("rotten", "sound"):
            await node.write(marker, RECORD_KIND, **a_report().to_attributes())
        flip(node.path, b"rotten")

        listed = await node.read("/errors")

    assert [row["damaged"] for row in listed] == [None, {"fetch_from": []}]


async def test_a_record_that_came_back_is_listed_once_and_is_sound(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        cid = await node.write("rotten")
        [link] = next(iter(node.feeds.chains.values()))
        whole = node.feeds.read(link)
        assert whole is not None
        flip(node.path, b"rotten")
        await node.read("/records")
        await node.feeds.add(Bundle.decode(whole))
        await node.index.catch_up()
        listed = await node.read("/records")
        shown = await node.read("/records/{cid}", cid=cid)

    assert [(row["cid"], row["damaged"]) for row in listed] == [(cid, None)]
    assert shown["damaged"] is None
