"""A node keeps what aggregators vouch for, and reports one that goes back on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node import watching as watching_module
from node.watching import CheckpointContradictedError, Watching
from protocols.checkpoint import CHECKPOINT_KIND, HEADS_KIND, HEADS_ROLE, Checkpoint, heads_blocks
from protocols.cid import CID
from protocols.feed import Head
from protocols.limits import TIP_EVERY_S
from protocols.record import Record, block
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, Peer, meet, until
from tests.support.feeds import START_US
from tests.support.home import Author
from tests.support.members import key_of
from tests.support.vouching import add_checkpoint

LONG_ENOUGH_S = 2 * TIP_EVERY_S


async def vouch(aggregator: Peer, number: int, heads: list[Head]) -> None:
    """Sign a checkpoint of these heads and tell everybody of it."""
    key, feeds = aggregator.key.public, aggregator.feeds
    blocks = [block(key, HEADS_KIND, each) for each in heads_blocks(heads)]
    for each in blocks:
        await feeds.append(each)
    said = Checkpoint(state_root=CID.of(b"root"), heads=len(heads), records=1)
    checkpoint = Record(
        author=key,
        nonce=bytes([number]),
        kind=CHECKPOINT_KIND,
        used=tuple((CID.of(each.encode()), HEADS_ROLE) for each in blocks),
        start_us=START_US + number,
        attributes=said.to_attributes(),
    )
    await feeds.append(checkpoint)
    await feeds.cut_all()
    [*_, last] = feeds.chains[key, feeds.epoch]
    feeds.vouching = lambda _feed: [last]


class Reports(list[Exception]):
    """Where errors are reported."""

    async def take(self, error: Exception) -> None:
        self.append(error)
        await trio.lowlevel.checkpoint()


async def test_a_checkpoint_that_goes_back_on_an_earlier_one_is_reported_and_remembered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    reports = Reports()
    meeting = Meeting(tmp_path)
    async with (
        meeting.peer(1, OPEN) as node,
        meeting.peer(2, FOLLOWING) as aggregator,
    ):
        watching = Watching(tmp_path / "checkpoints", node.feeds, reports.take)
        await meet(node, aggregator)
        await node.write(*range(10))
        await until(lambda: aggregator.feeds.state_root() == node.feeds.state_root())
        await vouch(aggregator, 1, aggregator.feeds.heads())
        await trio.sleep(LONG_ENOUGH_S)
        [consistent] = watching.status()
        await vouch(aggregator, 2, [])
        await trio.sleep(LONG_ENOUGH_S)
        [contradicted] = watching.status()
        await node.write(10)
        await trio.sleep(LONG_ENOUGH_S)
        later = Watching(tmp_path / "checkpoints", node.feeds, reports.take).status()

    assert consistent["state"] == "consistent"
    assert consistent["aggregator"] == aggregator.transport.peer_id
    assert consistent["next_sequence"] == 10
    assert contradicted["state"] == "contradicted"
    assert contradicted["before"] == consistent["cid"]
    assert [type(each) for each in reports] == [CheckpointContradictedError]
    assert "records 0 to 9 of our epoch 1" in str(reports[0])
    assert later == [contradicted]


async def test_an_acknowledgement_that_the_checkpoints_do_not_bear_out_is_reported(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    reports = Reports()
    meeting = Meeting(tmp_path)
    async with meeting.peer(1, OPEN) as node, meeting.peer(2, FOLLOWING) as aggregator:
        watching = Watching(tmp_path / "checkpoints", node.feeds, reports.take)
        await meet(node, aggregator)
        await node.write(*range(3))
        await until(lambda: node.feeds.acknowledged_sequence() == 3)
        for number in (1, 2):
            await vouch(aggregator, number, [])
            await trio.sleep(LONG_ENOUGH_S)
            assert len(reports) == number - 1, "the first may be older than the acknowledgement"

    assert watching.status()[0]["faults"]


@pytest.mark.parametrize("is_past", [True, False])
async def test_an_aggregator_that_makes_up_much_is_watched_as_before(
    tmp_path: Path, is_past: bool
) -> None:
    """In epochs that we may have lost as in such as we never came to."""
    reports: list[Exception] = []
    kept: list[bool] = []
    folder, aggregator = tmp_path / "checkpoints", Author(key_of(9))

    async def report(error: Exception) -> None:
        reports.append(error)
        kept.append(folder.exists())
        await trio.lowlevel.checkpoint()

    async with Meeting(tmp_path).peer(1, OPEN) as node:
        await node.write(*range(10))
        watching = Watching(folder, node.feeds, report)
        feed, own, name = node.key.public, node.feeds.heads(), CID.of(b"made up")
        present = node.feeds.epoch
        first = 1 if is_past else present + 1
        for epoch in range(first, first + 12):
            heads = [Head(feed, epoch, 2 * at, 2 * at + 1, name) for at in range(500)]
            await watching.told(add_checkpoint(aggregator, [*own, *heads]), {})
            if not (is_past or reports):
                shutil.rmtree(folder)  # of the first, which may be what we lost
        made_up = len(reports)
        await watching.told(add_checkpoint(aggregator, []), {})
        [status] = watching.status()
        lost = f"records 0 to 9 of our epoch {present},"
        later = Watching(folder, node.feeds, report).status()

    assert made_up >= 11
    assert len(reports) == made_up + 1
    assert lost in str(reports[-1])
    assert kept[0] is is_past, "what the disk does keeps no report back"
    assert len(status["faults"]) + status["more_faults"] == (13 if is_past else 2), (
        "one epoch is believed to be lost"
    )
    assert max(len(str(each)) for each in reports) < 2_000
    assert later == [status]


async def test_what_we_signed_and_lost_is_no_fault_of_who_still_holds_it(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A backup was restored, and nobody's hello told: the aggregator's checkpoint is the first."""
    reports, aggregator = Reports(), Author(key_of(9))
    async with Meeting(tmp_path).peer(1, OPEN) as node:
        await node.write(*range(10))
        journal, backup = tmp_path / "journal-1", tmp_path / "backup"
        shutil.copytree(journal, backup)
        await node.write(*range(10, 20))
        held = node.feeds.heads()
    shutil.rmtree(journal)
    backup.rename(journal)
    async with Meeting(tmp_path).peer(1, OPEN) as node:
        watching = Watching(tmp_path / "checkpoints", node.feeds, reports.take)
        before = node.feeds.place
        await watching.told(add_checkpoint(aggregator, held), {})
        await node.write(*range(20, 22))
        [first, second] = [node.feeds.place, max(node.feeds.heads())]
        await watching.told(add_checkpoint(aggregator, [*held, second]), {})
        [status] = watching.status()

    assert reports == []
    assert (status["state"], status["faults"]) == ("consistent", [])
    assert before < (held[0].epoch, held[0].next_sequence) < first
    assert first[0] > held[0].epoch, "nothing is signed twice"
    assert "own feed lost its end" in caplog.text


async def test_the_aggregator_not_heard_of_for_longest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching_module, "MAX_WATCHED_AGGREGATORS", 2)
    folder, authors = tmp_path / "checkpoints", [Author(key_of(number)) for number in (7, 8, 9)]
    async with Meeting(tmp_path).peer(1, OPEN) as node:
        watching = Watching(folder, node.feeds, _never)
        for at in (0, 1, 0, 2):
            await watching.told(add_checkpoint(authors[at], []), {})
        status = watching.status()
        later = Watching(folder, node.feeds, _never).status()

    watched = {authors[0].key.peer_id, authors[2].key.peer_id}
    assert {each["aggregator"] for each in status} == watched
    assert later == status
    assert "aggregator watched no more" in caplog.text


async def test_a_disk_that_takes_nothing_ends_no_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    async with Meeting(tmp_path).peer(1, OPEN) as node:
        watching = Watching(folder, node.feeds, _never)
        folder.write_bytes(b"no folder")
        await watching.told(add_checkpoint(Author(key_of(9)), []), {})

    assert len(watching.status()) == 1
    assert "checkpoint not kept" in caplog.text


async def test_what_somebody_else_says_of_an_aggregator_is_not_believed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    meeting = Meeting(tmp_path)
    async with (
        meeting.peer(1, OPEN) as node,
        meeting.peer(2, FOLLOWING) as aggregator,
        meeting.peer(3, FOLLOWING) as relay,
    ):
        watching = Watching(tmp_path / "checkpoints", node.feeds, _never)
        await meet(relay, aggregator)
        await vouch(aggregator, 1, [])
        await until(lambda: aggregator.feeds.state_root() == relay.feeds.state_root())
        [*_, last] = relay.feeds.chains[aggregator.key.public, aggregator.feeds.epoch]
        relay.feeds.vouching = lambda _feed: [last]
        await meet(node, relay)
        await trio.sleep(LONG_ENOUGH_S)

    assert watching.status() == []


async def _never(error: Exception) -> None:
    await trio.lowlevel.checkpoint()
    raise error


async def test_a_damaged_file_is_as_good_as_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "12D3KooW.cbor").write_bytes(b"?")
    async with Meeting(tmp_path).peer(1, OPEN) as node:
        watching = Watching(folder, node.feeds, _never)

    assert watching.status() == []
    assert "checkpoint damaged" in caplog.text
