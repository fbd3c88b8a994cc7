from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from protocols import dagcbor
from protocols.cid import CID, AnyCID
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import MAX_RECORD_BYTES, MAX_SEQUENCE
from protocols.record import Record, block, is_block
from tests.support.feeds import START_US, key, record

AUTHOR = key(1)

cids = st.builds(CID.of, st.binary(max_size=4))
words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
links = st.lists(st.tuples(cids, words), max_size=4).map(tuple)
counts = st.integers(0, MAX_SEQUENCE)
records = st.builds(
    Record,
    author=st.binary(min_size=32, max_size=32),
    nonce=st.binary(max_size=32),
    kind=words,
    used=links,
    generated=links,
    informed_by=st.lists(cids, max_size=4).map(tuple),
    environment=st.none() | cids,
    hardware=st.none() | cids,
    start_us=counts,
    duration_us=counts,
    status=words,
    attributes=st.dictionaries(
        words, st.integers(-5, 5) | words | cids | st.lists(words), max_size=4
    ),
)


foreign = st.just(AnyCID(b"\x12\x20" + bytes(32)))
oddities = (
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | cids | foreign
)
oddities |= st.binary(max_size=4) | st.lists(cids, max_size=2) | words | st.integers(-2, 2)
oddities |= st.dictionaries(words, oddities, max_size=2)


@st.composite
def changed_fields(draw: st.DrawFn) -> list[Any]:
    """The fields of a record, of which some may be what no record has there."""
    fields = list(msgspec.structs.astuple(draw(records)))
    for _ in range(draw(st.integers(0, 2))):
        fields[draw(st.integers(0, len(fields) - 1))] = draw(oddities)
    return fields + draw(st.lists(oddities, max_size=1))


def _read(read: Callable[[], Record]) -> Record | None:
    try:
        return read()
    except (RemoteProtocolError, msgspec.ValidationError):
        return None


@given(records)
def test_a_record_survives_the_round_trip(item: Record) -> None:
    encoded = item.encode()

    assert Record.decode(encoded) == item
    assert Record.decode_verified(encoded) == item
    assert Record.decode(encoded).encode() == encoded


@given(changed_fields())
def test_a_small_block_is_the_record_that_its_decoded_list_is(fields: list[Any]) -> None:
    encoded = dagcbor.encode(fields, profile=dagcbor.GENERIC)

    assert len(encoded) <= dagcbor.SMALL_BYTES
    assert _read(lambda: Record.decode(encoded)) == _read(
        lambda: msgspec.convert(dagcbor.decode(encoded), Record, builtin_types=(bytes,))
    )


@given(records)
def test_a_record_has_the_encoding_of_the_list_of_its_fields(item: Record) -> None:
    assert item.encode() == dagcbor.encode(msgspec.structs.astuple(item))


def test_a_small_record_keeps_the_limit_of_a_block() -> None:
    item = msgspec.structs.replace(record(AUTHOR), attributes={"text": "x" * MAX_RECORD_BYTES})

    with pytest.raises(LocalProtocolError):
        item.encode()


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Record.decode(data)


@given(records, st.data())
def test_a_changed_byte_gives_another_record_or_is_refused(
    item: Record, data: st.DataObject
) -> None:
    encoded = bytearray(item.encode())
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))

    try:
        other = Record.decode(bytes(encoded))
    except RemoteProtocolError:
        return
    assert other != item


def test_links_come_back_as_cids() -> None:
    model = CID.of(b"model")
    item = Record(
        author=AUTHOR.public,
        nonce=b"1",
        kind="job.run",
        used=((model, "model"),),
        start_us=START_US,
        attributes={"also": model},
    )

    decoded = Record.decode(item.encode())

    assert type(decoded.used[0][0]) is CID
    assert type(decoded.attributes["also"]) is CID


@pytest.mark.parametrize(
    ("position", "wrong"),
    [
        (0, 0),
        (0, "1"),
        (1, b"short"),
        (1, CID.of(b"")),
        (2, bytes(33)),
        (3, ""),
        (3, "x" * 65),
        (4, [[b"not a link", "model"]]),
        (4, [[CID.of(b""), "model", "more"]]),
        (6, [None]),
        (7, "env"),
        (9, -1),
        (9, 1 << 63),
        (9, 1.0),
        (10, None),
        (11, 5),
        (12, []),
    ],
)
def test_a_field_of_the_wrong_type_or_size_is_refused(position: int, wrong: Any) -> None:
    fields: list[Any] = dagcbor.decode(record(AUTHOR).encode())
    fields[position] = wrong

    with pytest.raises(RemoteProtocolError):
        Record.decode(dagcbor.encode(fields))


def test_fields_that_a_later_version_adds_are_ignored() -> None:
    item = record(AUTHOR)
    later = dagcbor.encode([*dagcbor.decode(item.encode()), "new field"])

    assert Record.decode(later) == item


def test_a_record_that_others_would_refuse_is_not_encoded() -> None:
    for wrong in ({"kind": ""}, {"start_us": -1}, {"nonce": bytes(40)}, {"used": ((b"x", "y"),)}):
        fields: dict[str, Any] = {"author": AUTHOR.public, "nonce": b"", "kind": "k", "start_us": 0}
        with pytest.raises(LocalProtocolError):
            Record(**(fields | wrong)).encode()


def test_a_block_has_the_same_cid_whenever_it_is_made() -> None:
    one = block(AUTHOR.public, "environment", {"python": "3.11", "torch": "2.13"})
    other = block(AUTHOR.public, "environment", {"torch": "2.13", "python": "3.11"})

    assert CID.of(one.encode()) == CID.of(other.encode())
    assert is_block(one.encode())
    assert not is_block(record(AUTHOR).encode())
