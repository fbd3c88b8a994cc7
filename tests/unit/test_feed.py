from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from protocols import dagcbor
from protocols.cid import CID
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.feed import (
    HEADER_TYPE,
    Bundle,
    Header,
    Place,
    UnverifiedBundle,
    conflict,
    encode_bundle,
    sign_bundle,
)
from protocols.keys import pae
from protocols.limits import MAX_BUNDLE_RECORDS
from tests.support.feeds import START_US, after, bundle, key, record

AUTHOR = key(1)


@given(st.integers(1, 8), st.integers(0, 1 << 40))
def test_a_bundle_survives_the_round_trip(count: int, epoch: int) -> None:
    made = bundle(AUTHOR, Place(epoch, 0, None), count)

    assert Bundle.decode(made.encode()) == made
    assert Bundle.decode_verified(made.encode()) == made
    assert UnverifiedBundle.open(made.encode()).cid == made.cid
    assert made.feed == AUTHOR.peer_id


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for decode in (Bundle.decode, UnverifiedBundle.open, Header.decode):
        with pytest.raises(RemoteProtocolError):
            decode(data)


@given(st.data())
def test_a_changed_byte_anywhere_is_refused(data: st.DataObject) -> None:
    encoded = bytearray(bundle(AUTHOR).encode())
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))

    with pytest.raises(RemoteProtocolError):
        Bundle.decode(bytes(encoded))


def test_a_bundle_of_another_signer_is_refused() -> None:
    made = bundle(AUTHOR)
    forged = replace(made, signature=key(2).sign(pae(HEADER_TYPE, made.header_bytes)))

    with pytest.raises(RemoteProtocolError) as caught:
        Bundle.decode(forged.encode())
    assert caught.value.code == "bad-signature"


def test_a_signature_for_another_purpose_is_refused() -> None:
    made = bundle(AUTHOR)
    forged = replace(made, signature=AUTHOR.sign(pae("text/plain", made.header_bytes)))

    with pytest.raises(RemoteProtocolError):
        Bundle.decode(forged.encode())


def test_a_record_of_another_author_is_refused() -> None:
    stolen = [record(key(2)).encode()]
    made = sign_bundle(AUTHOR, Place(1, 0, None), stolen, START_US)

    with pytest.raises(RemoteProtocolError):
        Bundle.decode(made.encode())


def test_records_that_the_header_does_not_name_are_refused() -> None:
    made = bundle(AUTHOR, count=2)
    for records in (made.records[::-1], made.records[:1], (*made.records, made.records[0])):
        with pytest.raises(RemoteProtocolError):
            Bundle.decode(encode_bundle(made.header_bytes, made.signature, records))


def test_a_record_that_is_not_strict_is_refused_although_it_is_signed() -> None:
    sloppy = record(AUTHOR).encode() + b"\0"
    made = sign_bundle(AUTHOR, Place(1, 0, None), [sloppy], START_US)

    with pytest.raises(RemoteProtocolError):
        Bundle.decode(made.encode())


def test_too_many_or_too_large_records_make_no_bundle() -> None:
    small, large = record(AUTHOR).encode(), record(AUTHOR, size=60_000).encode()

    for records in ([], [small] * (MAX_BUNDLE_RECORDS + 1), [large] * 4):
        with pytest.raises(LocalProtocolError):
            sign_bundle(AUTHOR, Place(1, 0, None), records, START_US)


def test_exactly_the_first_header_of_an_epoch_has_no_predecessor() -> None:
    header = bundle(AUTHOR).header
    fields = [getattr(header, name) for name in header.__struct_fields__]
    fields[3], fields[5] = 5, None
    unlinked = dagcbor.encode(fields)
    fields[3], fields[5] = 0, CID.of(b"x")
    linked = dagcbor.encode(fields)

    for wrong in (unlinked, linked):
        with pytest.raises(RemoteProtocolError):
            Header.decode(wrong)


def test_bundles_that_follow_each_other_do_not_conflict() -> None:
    first = bundle(AUTHOR)
    second = after(first)
    far = after(after(second))

    assert not conflict(first, first)
    assert not conflict(first, second)
    assert not conflict(second, first)
    assert not conflict(first, far)


def test_overlapping_and_unlinked_bundles_conflict() -> None:
    first, rival = bundle(AUTHOR), bundle(AUTHOR, count=5, marker=1)

    assert conflict(first, rival)
    assert conflict(rival, first)
    assert conflict(rival, after(first))
    assert conflict(bundle(AUTHOR, marker=2), after(first))


def test_other_feeds_and_epochs_do_not_conflict() -> None:
    first = bundle(AUTHOR)

    assert not conflict(first, bundle(key(2)))
    assert not conflict(first, bundle(AUTHOR, Place(2, 0, None)))
