from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocols import dagcbor
from protocols.ack import AckEntry, SignedAck
from protocols.chain import Chain, Link
from protocols.errors import RemoteProtocolError
from protocols.feed import Bundle
from protocols.limits import MAX_BUNDLE_BYTES, MAX_HELD_PER_MESSAGE
from protocols.sync import (
    Ack,
    Ask,
    BundleMessage,
    Fetch,
    Have,
    Message,
    Offer,
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
    ranges_of,
    unpack,
    want_messages,
)
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

    for want in want_messages(chains, follow=True):
        assert server.state is State.AWAITING_WANT
        server.receive(encode([want]))
    for have in have_messages(chains):
        assert puller.state is State.AWAITING_HAVE
        puller.receive(encode([have]))

    assert server.state is State.SERVING
    assert puller.state is State.PULLING
    assert len(ranges_of(want_messages(chains, follow=True))) == MAX_HELD_PER_MESSAGE + 1


def test_an_empty_holder_still_says_one_word() -> None:
    assert list(want_messages({}, follow=False)) == [Want(1, (), False, False)]
    assert list(have_messages({})) == [Have((), False)]
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
