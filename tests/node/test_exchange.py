from __future__ import annotations

import errno
import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from peer.exchange import Exchange
from peer.feed_server import Recent
from peer.service import running
from protocols.ack import AckEntry, SignedAck
from protocols.chain import Range
from protocols.cid import CID
from protocols.errors import StreamLostError
from protocols.feed import Bundle, Place
from protocols.journal import Entry
from protocols.limits import (
    MAX_BUNDLE_BYTES,
    MAX_PULLS_PER_PEER,
    MAX_QUESTIONS,
    PULL_RETRY_S_MAX,
    PULL_SILENCE_S,
    REFRESH_S,
    SEND_WITHIN_S,
    TIP_EVERY_S,
)
from protocols.sync import (
    PROTOCOL,
    Ack,
    Ask,
    BundleMessage,
    Have,
    Inventory,
    Message,
    Refuse,
    Side,
    Tip,
    encode,
    pack,
    pack_told,
    unpack,
    want_messages,
)
from protocols.transport import Stream
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, Peer, find_in, meet, until
from tests.support.feeds import START_US, after, bundle, bundles_of, chain_of, key, record


def _same(*peers: Peer) -> bool:
    return len({peer.feeds.state_root() for peer in peers}) == 1


async def test_an_aggregator_gets_what_was_recorded_before_and_after_they_met(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await node.write(1, 2)
        await meet(node, aggregator)
        await until(lambda: _same(node, aggregator))
        await node.write(3)
        await until(lambda: _same(node, aggregator))

        assert len(aggregator.feeds.heads()) == 1
        assert node.feeds.state_root() == aggregator.feeds.state_root()


async def test_a_puller_gets_records_that_were_not_in_a_bundle_yet(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        for number in range(3):
            await node.feeds.append(record(node.key, number))
        started = trio.current_time()
        await meet(node, aggregator)
        await until(lambda: aggregator.feeds.last_seen(node.key.public) is not None)

        assert trio.current_time() - started < 1


async def test_a_refresh_brings_what_a_followed_peer_would_send_only_later(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        await trio.sleep(1)
        await node.feeds.append(record(node.key, 1))
        await trio.sleep(0.1)
        before = aggregator.feeds.last_seen(node.key.public)

        await aggregator.exchange.refresh()

        assert before is None
        assert aggregator.feeds.last_seen(node.key.public) == (node.feeds.epoch, 1)


async def test_a_question_that_was_answered_ends_without_a_word_in_the_log(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        await node.write(1)
        await trio.sleep(1)

        await aggregator.exchange.refresh()
        written = CID.of(record(node.key, 1).encode())
        found = await aggregator.exchange.seek(node.transport.peer_id, [written.digest])
        await trio.sleep(1)

        assert len(found) == 1
        assert [each.message for each in caplog.records] == []


async def test_a_peer_that_is_met_when_the_exchange_has_stopped_is_let_be(tmp_path: Path) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        exchange = Exchange(aggregator.transport, aggregator.feeds, FOLLOWING, find_in(node.feeds))
        async with running(exchange.run):
            pass

        exchange.peer_up(node.transport.peer_id)  # raises nothing: the greeter stops later


async def test_a_refresh_does_not_wait_for_a_peer_that_is_silent(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    meeting = Meeting(tmp_path)
    async with meeting.peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        await trio.sleep(1)
        meeting.network.freeze(node.transport.peer_id)
        started = trio.current_time()

        await aggregator.exchange.refresh()

        assert trio.current_time() - started <= REFRESH_S
        meeting.network.thaw(node.transport.peer_id)


async def test_a_large_history_arrives_whole(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await node.feeds.add_all(chain_of(key(7), 300, count=4))
        await meet(node, aggregator)
        await until(lambda: _same(node, aggregator))

        assert aggregator.feeds.last_seen(key(7).public) == (1, 1_200)


async def test_the_node_learns_what_an_aggregator_keeps(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    meeting = Meeting(tmp_path)
    async with meeting.peer(2, FOLLOWING) as aggregator:
        async with meeting.peer(1) as node:
            await node.write(1, 2)
            await meet(node, aggregator)
            await until(lambda: node.feeds.acknowledged_sequence() == 2)
            await node.write(3)
            await until(lambda: node.feeds.acknowledged_sequence() == 3)

        async with meeting.peer(1) as node:
            assert node.feeds.acknowledged_sequence() == 3


async def test_an_acknowledgement_that_got_lost_is_given_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    deaf = replace(OPEN, may_acknowledge=lambda _: False)
    meeting = Meeting(tmp_path)
    async with meeting.peer(2, FOLLOWING) as aggregator:
        async with meeting.peer(1, deaf) as node:
            await node.write(1, 2)
            await meet(node, aggregator)
            await until(lambda: _same(node, aggregator))
            await trio.sleep(1)
            before = node.feeds.acknowledged_sequence()
        async with meeting.peer(1) as node:
            await meet(node, aggregator)
            await until(lambda: node.feeds.acknowledged_sequence() == 2)

    assert before == 0


async def test_after_a_partition_both_sides_end_in_the_same_state(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    meeting = Meeting(tmp_path)
    async with meeting.peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        await node.write(1)
        await until(lambda: _same(node, aggregator))
        meeting.network.reset(node.transport.peer_id, aggregator.transport.peer_id)
        await node.write(2, 3, 4)
        await trio.sleep(300)
        behind = not _same(node, aggregator)
        await meet(node, aggregator)
        await until(lambda: _same(node, aggregator))

    assert behind


async def test_a_lost_stream_is_opened_again_while_the_connection_lives(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await node.write(1)
        await meet(node, aggregator)
        await until(lambda: _same(node, aggregator))
        for link in list(node.transport.links.values()):
            for stream in list(link.streams):
                await stream.reset()
        await node.write(2)

        await until(lambda: _same(node, aggregator), within_s=2 * PULL_RETRY_S_MAX)


async def test_a_silent_server_is_left_and_pulled_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    meeting = Meeting(tmp_path)
    async with meeting.peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        await trio.sleep(10 * TIP_EVERY_S)
        await node.write(1)

        await until(lambda: _same(node, aggregator))


async def test_two_aggregators_agree_and_then_fall_silent(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, one=FOLLOWING, two=FOLLOWING) as peers:
        node, one, two = peers
        for pair in ((node, one), (node, two), (one, two)):
            await meet(*pair)
        for peer in peers:
            await peer.write(1, 2, 3)
        await until(lambda: _same(one, two) and len(one.feeds.heads()) == 3)
        await trio.sleep(120)
        sizes = [peer.journal.size for peer in peers]
        await trio.sleep(3_600)

        assert [peer.journal.size for peer in peers] == sizes
        for peer in (one, two):
            bundles = _bundles(peer)
            assert len(bundles) == len(set(bundles))


async def test_a_feed_reaches_an_aggregator_through_another_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, one=FOLLOWING, two=FOLLOWING) as peers:
        node, one, two = peers
        await meet(node, one)
        await meet(one, two)
        await node.write(1, 2)

        await until(lambda: two.feeds.last_seen(node.key.public) is not None)
        await two.write(5)
        await until(lambda: _same(one, two))


async def test_a_bundle_is_not_sent_back_to_the_peer_that_brought_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(one=FOLLOWING, two=FOLLOWING) as (one, two):
        await meet(one, two)
        stream, side = await _pull(one, two)
        await _receive_until_tip(stream, side)
        await one.write(1)
        await until(lambda: two.feeds.last_seen(one.key.public) is not None)
        await two.write(2)
        fresh = side.receive(await stream.receive() or b"")

        assert [_feed_of(message) for message in fresh] == [two.transport.peer_id]
        await stream.reset()


async def test_a_peer_that_does_not_share_looks_empty_and_shares_everything_later(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    meeting = Meeting(tmp_path)
    async with meeting.peer(2, FOLLOWING) as aggregator:
        async with meeting.peer(1, replace(OPEN, shares=False)) as node:
            await node.write(1)
            await meet(node, aggregator)
            await trio.sleep(300)
            await node.write(2)
            await trio.sleep(300)
            kept_back = aggregator.feeds.heads()
        async with meeting.peer(1) as node:
            await meet(node, aggregator)
            await until(lambda: _same(node, aggregator))

    assert kept_back == []


async def test_who_may_not_pull_is_refused_with_a_reason(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    closed = replace(OPEN, may_pull=lambda _: False)
    async with Meeting(tmp_path).peers(node=closed, stranger=OPEN) as (node, stranger):
        await node.write(1)
        await meet(node, stranger)
        stream, side = await _pull(stranger, node)

        (answer,) = side.receive(await stream.receive() or b"")

        assert isinstance(answer, Refuse)
        assert answer.code == "not-allowed"
        await stream.reset()


async def test_who_does_not_follow_gets_what_is_there_and_the_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, observer=OPEN) as (node, observer):
        await node.write(1)
        await meet(node, observer)
        stream, side = await _pull(observer, node, follow=False)
        messages = await _receive_until_tip(stream, side)

        assert [type(message).__name__ for message in messages] == ["Have", "BundleMessage", "Tip"]
        assert await stream.receive() is None
        await stream.reset()


async def test_a_refused_follower_asks_rarely(tmp_path: Path, autojump_clock: MockClock) -> None:
    asked: list[str] = []

    def may_pull(peer_id: str) -> bool:
        asked.append(peer_id)
        return False

    closed = replace(OPEN, may_pull=may_pull)
    async with Meeting(tmp_path).peers(node=closed, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        await trio.sleep(3_600)

    assert 60 <= len(asked) <= 130


async def test_a_peer_may_not_pull_on_many_streams_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, greedy=OPEN) as (node, greedy):
        await meet(node, greedy)
        streams = [await _pull(greedy, node) for _ in range(MAX_PULLS_PER_PEER + 1)]
        answers = [side.receive(await stream.receive() or b"") for stream, side in streams]

        assert [isinstance(answer[0], Refuse) for answer in answers] == [
            *[False] * MAX_PULLS_PER_PEER,
            True,
        ]
        for stream, _ in streams:
            await stream.reset()


async def test_both_branches_of_a_fork_reach_whoever_held_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    trunk = chain_of(key(7), 4)
    branch = [trunk[0], after(trunk[0], marker=1, author=key(7))]
    branch.append(after(branch[1], marker=1, author=key(7)))
    async with Meeting(tmp_path).peers(one=FOLLOWING, two=FOLLOWING) as (one, two):
        await one.feeds.add_all(trunk)
        await two.feeds.add_all(branch)
        await meet(one, two)

        await until(lambda: _same(one, two))
        assert list(one.feeds.forks) == list(two.feeds.forks) == [(key(7).public, 1)]
        assert len(bundles_of(one.feeds)) == 6


async def test_different_branches_of_equal_length_are_found(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(one=FOLLOWING, two=FOLLOWING) as (one, two):
        await one.feeds.add(bundle(key(7), marker=1))
        await two.feeds.add(bundle(key(7), marker=2))
        await meet(one, two)

        await until(lambda: _same(one, two))
        assert len(one.feeds.forks) == len(two.feeds.forks) == 1


async def test_a_feed_of_which_only_the_end_is_left_is_passed_on_with_its_hole(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await node.feeds.add_all(chain_of(key(7), 5)[3:])
        await meet(node, aggregator)

        await until(lambda: _same(node, aggregator))
        assert aggregator.feeds.holes == {(key(7).public, 1): [(0, 9)]}
        assert node.feeds.acked == {}


async def test_an_aggregator_with_a_full_disk_acknowledges_nothing_and_catches_up_later(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await node.write(1, 2)
        with monkeypatch.context() as patch:
            _fill_disk(patch)
            await meet(node, aggregator)
            await trio.sleep(60)
            acked = dict(node.feeds.acked)
        await until(lambda: node.feeds.acknowledged_sequence() == 2)

    assert acked == {}


async def test_a_node_with_a_full_disk_still_serves_what_it_has(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, observer=OPEN) as (node, observer):
        await node.write(1)
        await node.feeds.append(record(node.key, 2))
        await meet(node, observer)
        with monkeypatch.context() as patch:
            _fill_disk(patch)
            stream, side = await _pull(observer, node)
            messages = await _receive_until_tip(stream, side)

        assert [type(message).__name__ for message in messages] == ["Have", "BundleMessage", "Tip"]
        await stream.reset()


async def test_an_acknowledgement_signed_by_somebody_else_ends_the_stream(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, liar=OPEN) as (node, liar):
        await node.write(1)
        await meet(node, liar)
        stream, side = await _pull(liar, node)
        await _receive_until_tip(stream, side)
        entry = AckEntry(node.key.public, node.feeds.epoch, 1)
        forged = SignedAck.sign(key(9), [entry], START_US)
        await stream.send(encode([Ack(forged.payload, forged.signature)]))

        with pytest.raises(StreamLostError):
            await stream.receive()
        assert node.feeds.acked == {}
        assert Entry.ACK not in [kind for _, _, kind, _ in node.journal.scan()]


async def test_what_is_acknowledged_of_epochs_that_we_never_had_is_not_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    told: list[dict[int, Range]] = []

    async def witness(_bundle: Bundle, promised: Mapping[int, Range]) -> None:
        told.append(dict(promised))
        await trio.lowlevel.checkpoint()

    async with Meeting(tmp_path).peers(node=OPEN, liar=OPEN) as (node, liar):
        node.feeds.witness = witness
        await node.write(1)
        await meet(node, liar)
        stream, side = await _pull(liar, node)
        await _receive_until_tip(stream, side)
        feed, epoch = node.key.public, node.feeds.epoch
        entries = [AckEntry(feed, each, 1) for each in (*range(1, 500), epoch)]
        ack = SignedAck.sign(liar.key, entries, START_US)
        [own] = chain_of(liar.key, 1)
        word = [Ack(ack.payload, ack.signature), pack_told(own.encode())]
        await stream.send(encode(word))
        await until(lambda: bool(told))

        assert told == [{epoch: (0, 1)}]
        await stream.reset()


@pytest.mark.parametrize("frame", [b"\x80", b"garbage", encode([Tip()]), encode([Have((), False)])])
async def test_a_puller_that_breaks_the_protocol_loses_its_stream_only(
    tmp_path: Path, autojump_clock: MockClock, frame: bytes
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING, rude=OPEN) as peers:
        node, aggregator, rude = peers
        await meet(node, aggregator)
        await meet(node, rude)
        stream = await rude.transport.open_stream(node.transport.peer_id, PROTOCOL)
        await stream.send(frame)
        with pytest.raises(StreamLostError):
            await stream.receive()
        await node.write(1)

        await until(lambda: _same(node, aggregator))


async def test_a_server_that_sends_a_forged_bundle_is_not_believed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        genuine = bundle(key(7), Place(1, 0, None))
        forged = replace(genuine, signature=bytes(64))
        await node.feeds.add(forged)  # as a peer would that checks nothing
        await node.write(1)
        await meet(node, aggregator)
        await trio.sleep(60)

        assert aggregator.feeds.last_seen(key(7).public) is None


async def test_a_follower_that_meets_itself_does_not_pull(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(aggregator=FOLLOWING) as (aggregator,):
        aggregator.exchange.peer_up(aggregator.transport.peer_id)
        await trio.sleep(60)

        assert aggregator.feeds.heads() == []


async def test_a_large_fork_is_pulled_although_its_lists_fill_the_window_both_ways(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.sync.MAX_INVENTORY", 16)
    monkeypatch.setattr("tests.support.memory_stream.STREAM_WINDOW_BYTES", 512)
    trunk, branch = chain_of(key(7), 200, count=1), [bundle(key(7), count=64, marker=1)]
    while branch[-1].header.next_sequence < 200:
        branch.append(after(branch[-1], count=64, marker=1, author=key(7)))
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await node.feeds.add_all(trunk)
        await aggregator.feeds.add_all(branch)
        started = trio.current_time()
        await meet(node, aggregator)
        await until(lambda: len(bundles_of(aggregator.feeds)) == len(trunk) + len(branch))

        assert trio.current_time() - started < SEND_WITHIN_S


async def test_a_puller_that_asks_and_never_reads_is_left(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, greedy=OPEN) as (node, greedy):
        await node.write(1)
        await meet(node, greedy)
        stream, side = await _pull(greedy, node)
        await _receive_until_tip(stream, side)
        await stream.send(encode([Ask(node.key.public, 1)] * (MAX_QUESTIONS + 2)))
        await trio.testing.wait_all_tasks_blocked()

        with pytest.raises(StreamLostError):
            await stream.receive()


async def test_a_question_may_share_the_frame_of_the_first_words(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, observer=OPEN) as (node, observer):
        await node.write(1)
        await meet(node, observer)
        stream = await observer.transport.open_stream(node.transport.peer_id, PROTOCOL)
        ask = Ask(node.key.public, node.feeds.epoch)
        await stream.send(encode([*want_messages({}, follow=True), ask]))
        side, kinds = Side.puller(), set[str]()
        with trio.fail_after(SEND_WITHIN_S):
            while "Inventory" not in kinds:
                messages = side.receive(await stream.receive() or b"")
                kinds |= {type(message).__name__ for message in messages}

        await stream.reset()


async def test_a_list_that_nobody_asked_for_ends_the_pull(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    pulls = await _pulls_from(tmp_path, [Have((), False), Inventory(bytes(32), 1, (), False)])

    assert pulls > 1


async def test_a_frame_of_bundles_that_would_grow_a_thousandfold_is_not_expanded(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    expanded: list[int] = []
    monkeypatch.setattr("peer.feed_puller.unpack", lambda message: expanded.append(1) or b"")
    flood = [pack(bytes(MAX_BUNDLE_BYTES)) for _ in range(100)]

    pulls = await _pulls_from(tmp_path, [Have((), False), *flood])

    assert expanded == []
    assert pulls > 1


async def test_who_is_gone_leaves_nothing_behind(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await node.write(1)
        await meet(node, aggregator)
        await until(lambda: _same(node, aggregator))
        await aggregator.transport.disconnect(node.transport.peer_id)
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()

        assert [found for found in gc.get_objects() if type(found) is Recent] == []


async def _pulls_from(folder: Path, answer: Sequence[Message]) -> int:
    """Answer every pull with one frame; return how often an aggregator tried."""
    pulls = 0

    async def serve(stream: Stream) -> None:
        nonlocal pulls
        pulls += 1
        await stream.receive()
        await stream.send(encode(answer))
        while await stream.receive() is not None:
            pass

    async with Meeting(folder).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        node.transport.serve(PROTOCOL, serve)
        await meet(node, aggregator)
        with trio.move_on_after(PULL_SILENCE_S - 1):
            await trio.sleep_forever()
    return pulls


def _bundles(peer: Peer) -> list[bytes]:
    """The bundles of others as often as the journal has them."""
    return [body for _, _, kind, body in peer.journal.scan() if kind is Entry.BUNDLE]


def _feed_of(message: object) -> str:
    assert isinstance(message, BundleMessage)
    return Bundle.decode(unpack(message)).feed


async def _pull(puller: Peer, server: Peer, *, follow: bool = True) -> tuple[Stream, Side]:
    """Ask like somebody who holds nothing, by hand."""
    stream = await puller.transport.open_stream(server.transport.peer_id, PROTOCOL)
    for want in want_messages({}, follow=follow):
        await stream.send(encode([want]))
    return stream, Side.puller()


async def _receive_until_tip(stream: Stream, side: Side) -> list[object]:
    messages: list[object] = []
    while not messages or not isinstance(messages[-1], Tip):
        messages += side.receive(await stream.receive() or b"")
    return messages


def _fill_disk(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(os, "pwrite", refuse)
