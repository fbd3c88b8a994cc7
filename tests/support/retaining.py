"""Letting go of records: what its tests share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

from node.store import Store
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import Journal
from peer.retention import Keep, Retention
from protocols.ack import AckEntry, SignedAck
from protocols.journal import Entry
from protocols.keys import SigningKey
from tests.support.feeds import (
    START_US,
    bundles_of,
    key,
    record,
)

DAY_US = 86_400_000_000
WEEK = Keep(days=7, max_bytes=1 << 30)
NOTHING = Keep(days=0, max_bytes=0)
OWNER, AGGREGATOR = key(1), key(2)


async def acknowledge(feeds: Feeds, place: int, first: int = 0, epoch: int | None = None) -> None:
    entry = AckEntry(feeds.key.public, feeds.epoch if epoch is None else epoch, place, first)
    await feeds.acknowledge(SignedAck.sign(AGGREGATOR, [entry], START_US))


async def acknowledge_of(feeds: Feeds, author: SigningKey, place: int) -> None:
    entry = AckEntry(author.public, 1, place)
    await feeds.acknowledge(SignedAck.sign(AGGREGATOR, [entry], START_US))


async def write(feeds: Feeds, numbers: range, size: int = 0) -> None:
    for number in numbers:
        await feeds.append(record(OWNER, number, size=size))
        await feeds.cut()


def retention(journal: Journal, feeds: Feeds, keep: Keep = NOTHING) -> Retention:
    return Retention(journal, feeds, keep, nothing_needed, no_index)


def nothing_needed(_kind: Entry, _body: bytes) -> bytes:
    return b""


async def no_index(_places: Collection[int]) -> None:
    pass


def index_of(journal: Journal, path: Path) -> Index[Store]:
    open_store = partial(Store.open, memory_mb=64, own=OWNER.public)
    return Index(journal, path, OWNER.public, open_store, lag_bytes_max=1 << 30)


def journal_of(feeds: Feeds) -> Journal:
    return feeds._journal  # pyright: ignore[reportPrivateUsage]


def after_days(feeds: Feeds, days: float) -> None:
    now_us = START_US + int(days * DAY_US)
    feeds.effects = replace(feeds.effects, now_us=lambda: now_us)


def sequences(feeds: Feeds) -> list[int]:
    return [made.header.first_sequence for made in bundles_of(feeds)]


def entries(journal: Journal) -> list[Entry]:
    return [kind for _, _, kind, _ in journal.scan()]
