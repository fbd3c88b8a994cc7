"""Keys, records, bundles and running feeds for tests of the record core."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from peer.effects import Effects
from peer.feeds import Feeds
from peer.journal import Journal
from protocols.cid import CID
from protocols.feed import Bundle, Place, sign_bundle
from protocols.keys import SigningKey
from protocols.record import Record

START_US = 1_764_000_000_000_000


def key(number: int) -> SigningKey:
    return SigningKey.from_seed(bytes([number]) * 32)


def effects(seed: int = 0, start_us: int = START_US) -> Effects:
    rng = random.Random(seed)
    return Effects(now_us=lambda: start_us, token=rng.randbytes, rng=rng)


def record(author: SigningKey, number: int = 0, kind: str = "test", size: int = 0) -> Record:
    return Record(
        author=author.public,
        nonce=number.to_bytes(8, "big"),
        kind=kind,
        start_us=START_US,
        attributes={"number": number, "filler": bytes(size)},
    )


def bundle(
    author: SigningKey, place: Place | None = None, count: int = 3, marker: int = 0
) -> Bundle:
    """Sign ``count`` records at ``place``; another ``marker`` gives other records."""
    place = place or Place(1, 0, None)
    first = place.first_sequence + 1_000_000 * marker
    records = [record(author, number).encode() for number in range(first, first + count)]
    return sign_bundle(author, place, records, START_US)


def after(
    before: Bundle, count: int = 3, marker: int = 0, author: SigningKey | None = None
) -> Bundle:
    """Sign the bundle that follows ``before``."""
    place = Place(before.header.epoch, before.header.next_sequence, before.cid)
    return bundle(author or key(1), place, count, marker)


def chain_of(author: SigningKey, length: int, count: int = 3, epoch: int = 1) -> list[Bundle]:
    """Sign ``length`` consecutive bundles of one epoch."""
    bundles = [bundle(author, Place(epoch, 0, None), count)]
    while len(bundles) < length:
        bundles.append(after(bundles[-1], count, author=author))
    return bundles


async def inline(function: Callable[[], None]) -> None:
    """Wait for the disk on the spot: a virtual clock would run on while a thread works."""
    function()
    await trio.lowlevel.checkpoint()


def open_journal(path: Path) -> Journal:
    return Journal.open(path, offload=inline)


@asynccontextmanager
async def running_feeds(
    path: Path, owner: SigningKey, mesh: bytes | None = None
) -> AsyncGenerator[Feeds]:
    """Open the feeds of ``path`` and run their journal; nothing cuts bundles by itself."""
    journal = open_journal(path)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            yield Feeds(journal, owner, effects(), mesh)
            nursery.cancel_scope.cancel()
    finally:
        journal.close()


def bundles_of(feeds: Feeds) -> list[Bundle]:
    """Read every bundle that is held, in feed order, and check it like a stranger's."""
    chains = feeds.chains
    held = (feeds.read(link) for feed in sorted(chains) for link in chains[feed])
    return [Bundle.decode(encoded) for encoded in held if encoded is not None]


def cid_of(item: Record) -> CID:
    return CID.of(item.encode())


def segment_of(journal: Path) -> Path:
    """Return the file in which a closed journal's end lies, its only one while it is small."""
    return max(journal.glob("*.segment"))
