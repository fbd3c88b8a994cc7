from __future__ import annotations

import pytest
import zstandard
from hypothesis import given, strategies as st

from protocols import dagcbor
from protocols.ack import AckEntry, SignedAck
from protocols.chain import Chain, Link
from protocols.errors import RemoteProtocolError
from protocols.feed import Bundle
from protocols.limits import MAX_BUNDLE_BYTES, MAX_HELD_PER_MESSAGE, MAX_HELD_RANGES
from protocols.sync import (
    Ack,
    Ask,
    BundleMessage,
    Fetch,
    Have,
    HeldRanges,
    Message,
    Refuse,
    Side,
    State,
    Tip,
    Want,
    encode,
    fetch_messages,
    have_messages,
    inventory_messages,
    pack,
    unpack,
    want_messages,
)
from protocols.told import Offer, Wanted
from tests.support.feeds import START_US, after, bundle, chain_of, key

AUTHOR, AGGREGATOR = key(1), key(9)
KEY = (AUTHOR.public, 1)


def _chain(bundles: list[Bundle]) -> Chain:
    chain = Chain()
    for made in bundles:
        chain.add(Link.of(made.header, made.cid.digest, 0))
    return chain


def _have(bundles: list[Bundle]) -> Have:
    (message,) = have_messages({KEY: _chain(bundles)})
    return message


@given(st.binary(max_size=200))
def test_any_frame_is_understood_or_refused(payload: bytes) -> None:
    for side in (Side.server(), Side.puller()):
        with pytest.raises(RemoteProtocolError):
            side.receive(b"\x81" + payload)


@pytest.mark.parametrize("message", [Tip(), Have((), False), pack(b"bundle"), Refuse("no", "")])
def test_a_puller_may_not_speak_like_a_server(message: Message) -> None:
    side = Side.server()

    with pytest.raises(RemoteProtocolError) as caught:
        side.receive(encode([message]))
    assert caught.value.code == "out-of-turn"
    assert side.state is State.AWAITING_WANT


def test_a_server_may_not_send_bundles_before_it_said_what_it_has() -> None:
    side = Side.puller()

    for message in (pack(b"bundle"), Tip()):
        with pytest.raises(RemoteProtocolError):
            side.receive(encode([message]))


def test_a_frame_out_of_turn_changes_nothing() -> None:
    side = Side.server()

    with pytest.raises(RemoteProtocolError):
        side.receive(encode([Want(1, (), True, False), Tip()]))
    assert side.state is State.AWAITING_WANT


def test_nothing_follows_a_refusal() -> None:
    side = Side.puller()
    side.receive(encode([Refuse("not-allowed", "")]))

    with pytest.raises(RemoteProtocolError):
        side.receive(encode([Have((), False)]))


def test_what_many_feeds_hold_is_said_in_several_messages() -> None:
    chains = {(AUTHOR.public, epoch): _chain([]) for epoch in range(MAX_HELD_PER_MESSAGE + 1)}
    server, puller = Side.server(), Side.puller()

    wanted = Wanted()
    for want in want_messages(chains, follow=True):
        wanted.want(want)
        assert server.state is State.AWAITING_WANT
        server.receive(encode([want]))
    for have in have_messages(chains):
        assert puller.state is State.AWAITING_HAVE
        puller.receive(encode([have]))

    assert server.state is State.SERVING
    assert puller.state is State.PULLING
    assert len(wanted.ranges) == MAX_HELD_PER_MESSAGE + 1


def test_an_empty_holder_still_says_one_word() -> None:
    assert list(want_messages({}, follow=False)) == [Want(1, (), False, False)]
    assert list(have_messages({})) == [Have((), False, hears=True)]
    assert list(fetch_messages(KEY, [])) == []


@given(st.binary(min_size=1, max_size=2_000))
def test_a_bundle_survives_compression(content: bytes) -> None:
    assert unpack(pack(content)) == content


@given(st.binary(max_size=100))
def test_bytes_that_are_not_compressed_are_refused(content: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack(BundleMessage(content))


def test_a_compressed_flood_is_refused_before_it_is_expanded() -> None:
    compress = zstandard.ZstdCompressor(write_content_size=True).compress
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress
    good = compress(b"bundle")

    for hostile in (
        compress(bytes(MAX_BUNDLE_BYTES + 1)),
        unsized(b"bundle"),
        unsized(bytes(1 << 30)),
        good + good,
        good + b"rest",
        good[:-1],
        compress(b""),
    ):
        with pytest.raises(RemoteProtocolError):
            unpack(BundleMessage(hostile))


def test_an_acknowledgement_holds_for_its_signer_only() -> None:
    ack = SignedAck.sign(AGGREGATOR, [AckEntry(*KEY, 5)], START_US)

    verified = SignedAck.verified(ack.payload, ack.signature, AGGREGATOR.public)

    assert verified == ack
    assert SignedAck.decode(ack.encode()) == ack
    with pytest.raises(RemoteProtocolError):
        SignedAck.verified(ack.payload, ack.signature, AUTHOR.public)
    with pytest.raises(RemoteProtocolError):
        SignedAck.verified(ack.payload, bytes(64), AGGREGATOR.public)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_acknowledgement_or_refused(payload: bytes) -> None:
    for content in (payload, dagcbor.encode([1, AGGREGATOR.public, [payload], 0])):
        with pytest.raises(RemoteProtocolError):
            SignedAck.verified(content, bytes(64), AGGREGATOR.public)


def test_only_what_is_held_whole_is_acknowledged() -> None:
    bundles = chain_of(AUTHOR, 4)
    offer = Offer()
    offer.have(_have(bundles))

    first = offer.acks({KEY: _chain(bundles[:2])})
    offer.caught_up()
    second = offer.acks({KEY: _chain(bundles)})
    offer.caught_up()
    third = offer.acks({KEY: _chain(bundles)})

    assert first == third == []
    assert second == [AckEntry(*KEY, 12)]


def test_what_comes_after_the_tip_is_acknowledged_in_turn() -> None:
    bundles = chain_of(AUTHOR, 3)
    offer = Offer()
    offer.have(_have(bundles[:2]))
    offer.acks({KEY: _chain(bundles[:2])})

    offer.fresh(KEY, Link.of(bundles[2].header, bundles[2].cid.digest, 0))

    assert offer.acks({KEY: _chain(bundles)}) == [AckEntry(*KEY, 9)]


def test_another_branch_of_a_fork_is_doubted_and_never_acknowledged() -> None:
    trunk = chain_of(AUTHOR, 3)
    branch = [trunk[0], after(trunk[0], marker=1)]
    offer = Offer()
    offer.have(_have(branch))
    ours = {KEY: _chain(trunk)}

    doubts = offer.doubts(ours)

    assert offer.acks(ours) == []
    assert doubts == [KEY]
    assert offer.doubts(ours) == []


def test_nothing_past_a_hole_is_acknowledged_until_it_is_filled() -> None:
    bundles = chain_of(AUTHOR, 3)
    offer = Offer()
    offer.have(_have([bundles[0], bundles[2]]))

    with_hole = offer.acks({KEY: _chain([bundles[0], bundles[2]])})
    offer.caught_up()
    filled = offer.acks({KEY: _chain(bundles)})

    assert with_hole == [AckEntry(*KEY, 3)]
    assert filled == [AckEntry(*KEY, 9)]


def test_nothing_past_a_branch_that_we_lack_is_acknowledged() -> None:
    trunk = chain_of(AUTHOR, 4)
    branch = after(trunk[1], marker=1)

    for lacking in (branch, trunk[2]):
        offer = Offer()
        offer.have(_have([*trunk, branch]))
        ours = [held for held in (*trunk, branch) if held is not lacking]

        (ack,) = offer.acks({KEY: _chain(ours)}) or [AckEntry(*KEY, 0)]

        assert ack.next_sequence <= lacking.header.first_sequence


def test_branches_that_a_server_had_no_room_to_tell_are_not_acknowledged_over() -> None:
    trunk = [bundle(AUTHOR, count=200 // 4)]
    while len(trunk) < MAX_HELD_RANGES + 2:
        trunk.append(after(trunk[-1], count=1))
    branches = [after(made, count=1, marker=5) for made in trunk[:-1]]
    offer = Offer()
    offer.have(_have([*trunk, *branches]))

    acks = offer.acks({KEY: _chain([*trunk, *branches[:-1]])})

    assert all(ack.next_sequence <= branches[-1].header.first_sequence for ack in acks)


def test_a_list_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.told.MAX_FEEDS", 3)
    have, want = _have([bundle(AUTHOR)]), Want(1, (HeldRanges(*KEY, ((0, 3),)),), True, True)
    offer, wanted = Offer(), Wanted()
    for _ in range(3):
        offer.have(have)
        wanted.want(want)

    with pytest.raises(RemoteProtocolError):
        offer.have(have)
    with pytest.raises(RemoteProtocolError):
        wanted.want(want)


def test_of_very_many_ranges_one_a_feed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.told.MAX_HELD_PARTS", 2)
    rows = [HeldRanges(AUTHOR.public, epoch, ((0, 3), (5, 6))) for epoch in range(3)]
    wanted = Wanted()

    wanted.want(Want(1, tuple(rows), True, False))

    assert [len(ranges) for ranges in wanted.ranges.values()] == [2, 1, 1]


def test_an_inventory_names_every_bundle() -> None:
    bundles = [bundle(AUTHOR), *chain_of(AUTHOR, 3)[1:]]

    (message,) = inventory_messages(KEY, _chain(bundles))

    assert message.bundles == tuple((b.header.first_sequence, b.cid.digest) for b in bundles)
    assert not message.more


@pytest.mark.parametrize(
    "message",
    [Ask(*KEY), Fetch(*KEY, ((0, bytes(32)),)), Ack(b"payload", bytes(64))],
)
def test_questions_are_understood_once_serving(message: Message) -> None:
    side = Side.server()
    side.receive(encode([Want(1, (), True, False)]))

    assert side.receive(encode([message])) == [message]
