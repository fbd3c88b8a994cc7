"""How often a tombstone is on the disk of a node that lets go of the bundle in which it came."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.feeds import Feeds
from peer.keeping import keep_statements
from protocols.journal import Entry
from protocols.membership import AGGREGATOR as AGGREGATOR_ROLE
from protocols.record import Record
from tests.node.test_redaction import signed
from tests.support.feeds import after, cid_of, key, record, running_feeds
from tests.support.retaining import (
    OWNER,
    acknowledge,
    acknowledge_of,
    journal_of,
    retention,
    write,
)
from tests.support.rot import flip_at
from tests.unit.test_tombstone import MESH, certificate, tombstone

AUTHOR, OPERATOR = key(3), key(11)
REDACTED = record(AUTHOR, 901)
STATEMENTS: list[Record] = [
    certificate(OPERATOR, AGGREGATOR_ROLE),
    tombstone(OPERATOR, "aggregator", cid_of(REDACTED)),
]
BURIAL = signed(OPERATOR, *STATEMENTS)


async def hold(feeds: Feeds) -> None:
    await feeds.add_all([BURIAL, after(BURIAL, author=OPERATOR)])


async def drop(feeds: Feeds, times: int = 1) -> None:
    """Let go of the burial; what is written anew then is written anew when its turn comes."""
    for number in range(times):
        await write(feeds, range(40 * number, 40 * number + 40), size=5_000)
        await acknowledge(feeds, feeds.next_sequence)
        await acknowledge_of(feeds, OPERATOR, BURIAL.header.next_sequence)
        await retention(journal_of(feeds), feeds).enforce()


def copies(feeds: Feeds) -> list[tuple[int, bytes]]:
    return [(at, body) for at, _, kind, body in journal_of(feeds).scan() if kind is Entry.KEPT]


def bodies(feeds: Feeds) -> list[bytes]:
    return sorted(body for _, body in copies(feeds))


ONCE = sorted(each.encode() for each in STATEMENTS)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("times", [1, 3])
async def test_what_was_kept_before_an_erasure_is_not_kept_again(
    tmp_path: Path, times: int
) -> None:
    async with running_feeds(tmp_path / "journal", OWNER, MESH.root.public) as feeds:
        await hold(feeds)
        await keep_statements(journal_of(feeds), feeds, feeds.bodies.pending)
        await drop(feeds, times)
        left = bodies(feeds)
        known = {at for cid in map(cid_of, STATEMENTS) for at in feeds.bodies.copies_of(cid)}
        places = {at for at, _ in copies(feeds)}
        await keep_statements(journal_of(feeds), feeds, feeds.bodies.redactions.named())
        after_all = bodies(feeds)

    assert left == after_all == ONCE
    assert known == places


@pytest.mark.usefixtures("small_segments")
async def test_what_was_kept_twice_is_kept_once_when_its_turn_comes(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER, MESH.root.public) as feeds:
        await hold(feeds)
        for each in (*STATEMENTS, *STATEMENTS):
            await journal_of(feeds).append(Entry.KEPT, each.encode())
    async with running_feeds(path, OWNER, MESH.root.public) as feeds:
        before = len(bodies(feeds))
        await drop(feeds)
        left = bodies(feeds)

    assert before == 4
    assert left == ONCE


@pytest.mark.usefixtures("small_segments")
async def test_a_damaged_copy_does_not_stand_for_what_was_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER, MESH.root.public) as feeds:
        await hold(feeds)
        await write(feeds, range(100, 110), size=5_000)  # the copies lie in another segment
        await keep_statements(journal_of(feeds), feeds, feeds.bodies.pending)
        for at, _ in copies(feeds):
            flip_at(path, at + 40)
        await drop(feeds)
        left = bodies(feeds)
    async with running_feeds(path, OWNER, MESH.root.public) as feeds:
        redaction = feeds.bodies.redactions.of(cid_of(REDACTED), AUTHOR.public)

    assert left == ONCE
    assert redaction is not None
