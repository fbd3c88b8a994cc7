"""Asking a peer for records by their names: ``Seek`` of ``/covey/feed/1``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from peer.seeker import Seeker
from protocols.cid import CID
from protocols.errors import Refused, RemoteProtocolError, StreamLostError
from protocols.feed import Bundle
from protocols.limits import MAX_SOUGHT, SEEK_SPACING_S
from protocols.sync import PROTOCOL, Ask, Seek, Tip, encode, pack
from protocols.transport import Stream
from tests.support.exchanging import OPEN, Meeting, Peer, meet
from tests.support.feeds import after, bundle, bundles_of, chain_of, key, record

NO_READER = replace(OPEN, may_pull=lambda _: False)


def digests_of(made: Bundle) -> tuple[bytes, ...]:
    return made.header.digests


async def test_a_peer_gets_the_bundle_of_a_record_that_it_names_and_no_other(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bundles = chain_of(key(7), 5)
    async with Meeting(tmp_path).peers(worker=NO_READER, submitter=OPEN) as (worker, submitter):
        await worker.feeds.add_all(bundles)
        await meet(worker, submitter)

        arrived = await submitter.exchange.seek(
            worker.transport.peer_id, [digests_of(bundles[2])[1], bytes(32)]
        )

        assert arrived == bundles_of(submitter.feeds) == [bundles[2]]


async def test_a_record_of_the_peer_itself_that_is_in_no_bundle_yet_is_cut_for_who_asks(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(worker=NO_READER, submitter=OPEN) as (worker, submitter):
        cid = await worker.feeds.append(record(worker.key, 1))
        await meet(worker, submitter)

        arrived = await submitter.exchange.seek(worker.transport.peer_id, [cid.digest])

        assert [each.header.digests for each in arrived] == [(cid.digest,)]


async def test_a_thing_is_found_by_what_the_peer_itself_says_of_its_making(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    model = CID.of(b"weights")
    async with Meeting(tmp_path).peers(worker=NO_READER, submitter=OPEN) as (worker, submitter):
        made = msgspec.structs.replace(record(worker.key, 1), generated=((model, "model"),))
        await worker.feeds.append(made)
        await worker.feeds.cut_all()
        await meet(worker, submitter)

        arrived = await submitter.exchange.seek(worker.transport.peer_id, [model.digest])

        assert [each.records for each in arrived] == [(made.encode(),)]


async def test_both_branches_of_a_fork_are_looked_through(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    trunk = chain_of(key(7), 3)
    branch = after(trunk[0], count=6, marker=1, author=key(7))
    async with Meeting(tmp_path).peers(holder=OPEN, other=OPEN) as (holder, other):
        await holder.feeds.add_all([*trunk, branch])
        await meet(holder, other)

        for wanted in (branch, trunk[2]):
            await trio.sleep(SEEK_SPACING_S)
            await other.exchange.seek(holder.transport.peer_id, [digests_of(wanted)[-1]])

        assert {each.cid for each in bundles_of(other.feeds)} == {branch.cid, trunk[2].cid}


async def test_who_asks_again_at_once_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with Meeting(tmp_path).peers(holder=OPEN, greedy=OPEN) as (holder, greedy):
        await meet(holder, greedy)
        await _seek(greedy, holder)

        with pytest.raises(Refused) as caught:
            await _seek(greedy, holder)

        assert caught.value.code == "too-soon"


async def test_a_peer_that_does_not_share_has_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    silent = replace(OPEN, shares=False)
    async with Meeting(tmp_path).peers(worker=silent, submitter=OPEN) as (worker, submitter):
        cid = await worker.feeds.append(record(worker.key, 1))
        await worker.feeds.cut_all()
        await meet(worker, submitter)

        assert (
            await Seeker(submitter.transport, submitter.feeds, worker.transport.peer_id).run(
                [cid.digest]
            )
            == []
        )


async def test_who_may_only_ask_by_name_may_not_read_feeds(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    seeker = replace(OPEN, follows=True)
    async with Meeting(tmp_path).peers(worker=NO_READER, submitter=seeker) as (worker, submitter):
        await worker.write(1)
        await meet(worker, submitter)
        await trio.sleep(30)

        assert submitter.feeds.heads() == []


@pytest.mark.parametrize("answer", ["another", "too many", "forged"])
async def test_only_what_was_asked_for_is_kept(
    tmp_path: Path, autojump_clock: MockClock, answer: str
) -> None:
    genuine = bundle(key(7))
    fork = replace(genuine, signature=bytes(64))
    answers = {
        "another": [bundle(key(8))],
        "too many": [genuine, genuine],
        "forged": [fork],
    }[answer]

    async def serve(stream: Stream) -> None:
        await stream.receive()
        await stream.send(encode([*(pack(each.encode()) for each in answers), Tip()]))
        while await stream.receive() is not None:
            pass

    async with Meeting(tmp_path).peers(liar=OPEN, submitter=OPEN) as (liar, submitter):
        liar.transport.serve(PROTOCOL, serve)
        await meet(liar, submitter)

        with pytest.raises(RemoteProtocolError):
            await Seeker(submitter.transport, submitter.feeds, liar.transport.peer_id).run(
                [digests_of(genuine)[0]]
            )

        assert {each.feed for each in bundles_of(submitter.feeds)} <= {key(7).peer_id}
        assert len(bundles_of(submitter.feeds)) == (answer == "too many")


@pytest.mark.parametrize("count", [0, MAX_SOUGHT + 1])
async def test_a_question_for_none_or_too_many_ends_the_stream(
    tmp_path: Path, autojump_clock: MockClock, count: int
) -> None:
    await _rude(tmp_path, encode([Seek(1, (bytes(32),) * count)]))


async def test_a_question_ends_what_may_be_said(tmp_path: Path, autojump_clock: MockClock) -> None:
    await _rude(tmp_path, encode([Seek(1, (bytes(32),)), Ask(bytes(32), 1)]))


async def _rude(folder: Path, frame: bytes) -> None:
    async with Meeting(folder).peers(holder=OPEN, rude=OPEN) as (holder, rude):
        await meet(holder, rude)
        stream = await rude.transport.open_stream(holder.transport.peer_id, PROTOCOL)
        await stream.send(frame)

        with pytest.raises(StreamLostError):
            await stream.receive()


async def _seek(asker: Peer, holder: Peer) -> None:
    await Seeker(asker.transport, asker.feeds, holder.transport.peer_id).run([bytes(32)])
