from __future__ import annotations

from contextlib import suppress

import cbor2
import msgspec
import pytest
from hypothesis import given, strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import (
    MAX_FRAME_BYTES,
    MAX_FRAME_ITEMS,
    MAX_MESSAGE_MAP_ENTRIES,
    MAX_MESSAGES_PER_FRAME,
)
from protocols.wire import SCAN_FROM_BYTES, MessageCodec, decode_bounded


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=1):
    number: int
    body: bytes = b""


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=2):
    text: str


CODEC: MessageCodec[Ping | Pong] = MessageCodec(Ping | Pong)

messages = st.lists(
    st.builds(Ping, st.integers(-5, 5), st.binary(max_size=40)) | st.builds(Pong, st.text())
)


@given(messages)
def test_messages_survive_the_round_trip(sent: list[Ping | Pong]) -> None:
    assert CODEC.decode(CODEC.encode(sent)) == sent


@given(st.binary(max_size=400))
def test_any_bytes_decode_or_are_refused(payload: bytes) -> None:
    with suppress(RemoteProtocolError):
        assert isinstance(CODEC.decode(payload), list)


def test_fields_that_a_newer_version_appends_are_ignored() -> None:
    assert CODEC.decode(cbor2.dumps([[1, 7, b"", "newer"]])) == [Ping(7)]


@pytest.mark.parametrize("tag", [2, 5, 25, 28, 29, 35, 36, 258, 99_999])
@pytest.mark.parametrize("padding", [0, SCAN_FROM_BYTES])
def test_no_tag_is_obeyed_whatever_the_size_of_its_frame(tag: int, padding: int) -> None:
    payload = cbor2.dumps([[2, cbor2.CBORTag(tag, "(a+)+$")], [1, 1, bytes(padding)]])

    with pytest.raises(RemoteProtocolError):
        CODEC.decode(payload)


def test_a_frame_of_very_many_items_is_refused_before_it_is_built() -> None:
    payload = b"\x9a" + (MAX_FRAME_BYTES - 5).to_bytes(4, "big") + b"\x80" * (MAX_FRAME_BYTES - 5)

    with pytest.raises(RemoteProtocolError, match=f"{MAX_FRAME_ITEMS} items"):
        decode_bounded(payload)


def test_a_large_map_whose_keys_may_collide_is_refused_before_it_is_built() -> None:
    entries = {number * (2**61 - 1): 0 for number in range(8_000)}

    with pytest.raises(RemoteProtocolError, match="8000 entries"):
        decode_bounded(cbor2.dumps([entries]))
    with pytest.raises(RemoteProtocolError, match="not valid CBOR"):  # it has no text for a key
        decode_bounded(cbor2.dumps([{2**61 - 1: 0, 0: 0}]))

    assert len(entries) > MAX_MESSAGE_MAP_ENTRIES


def test_the_largest_honest_frames_pass() -> None:
    many = [Ping(number, bytes(200)) for number in range(MAX_MESSAGES_PER_FRAME)]
    large = [Ping(1, bytes(MAX_FRAME_BYTES - 64))]

    assert CODEC.decode(CODEC.encode(many)) == many
    assert CODEC.decode(CODEC.encode(large)) == large


def test_a_frame_over_the_limit_is_neither_sent_nor_read() -> None:
    with pytest.raises(LocalProtocolError):
        CODEC.encode([Ping(1, bytes(MAX_FRAME_BYTES))])
    with pytest.raises(RemoteProtocolError):
        decode_bounded(bytes(MAX_FRAME_BYTES + 1))


def test_more_messages_than_a_frame_may_hold_are_refused() -> None:
    payload = cbor2.dumps([[1, 0]] * (MAX_MESSAGES_PER_FRAME + 1))

    with pytest.raises(RemoteProtocolError, match="list of at most"):
        CODEC.decode(payload)
