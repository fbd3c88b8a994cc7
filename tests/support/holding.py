"""What one node holds, with its index, for tests of what it says about that."""

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
from protocols.record import Record
from tests.support.feeds import START_US, running_feeds
from tests.support.retaining import OWNER, index_of, journal_of


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
