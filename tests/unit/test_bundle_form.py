from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from protocols import dagcbor
from protocols.bundle_form import envelope_parts, header_parts
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import Bundle, Header, Place, sign_bundle
from protocols.limits import MAX_EPOCH, MAX_SEQUENCE
from tests.support.feeds import START_US, key, record

AUTHOR = key(1)

counts = st.integers(0, MAX_SEQUENCE - 64) | st.integers(0, 70_000)
places = st.builds(
    Place, st.integers(0, MAX_EPOCH - 1), counts.filter(bool), st.builds(CID.of, st.binary())
) | st.builds(Place, st.integers(0, MAX_EPOCH - 1), st.just(0), st.none())


def bundle_of(place: Place, count: int, size: int = 0) -> Bundle:
    item = msgspec.structs.replace(record(AUTHOR), attributes={"text": "x" * size})
    return sign_bundle(AUTHOR, place, [item.encode()] * count, START_US)


bundles = st.builds(bundle_of, places, st.integers(1, 64), st.sampled_from([0, 40, 700]))


@given(bundles)
def test_a_bundle_is_taken_apart_as_the_codec_does(bundle: Bundle) -> None:
    data = bundle.encode()

    parts = envelope_parts(data)
    fields = header_parts(bundle.header_bytes)

    assert parts is not None
    assert [*parts[:2], list(parts[2])] == dagcbor.decode(data, max_bytes=1 << 20)
    assert fields is not None
    assert [*fields[:4], list(fields[4]), *fields[5:]] == dagcbor.decode(bundle.header_bytes)
    assert Bundle.decode(data) == Bundle.decode_verified(data) == bundle


def changed(encoded: bytes, data: st.DataObject) -> bytes:
    """Damage, most of it where the heads are."""
    for _ in range(data.draw(st.integers(1, 2))):
        ends = st.integers(0, 110) | st.integers(max(0, len(encoded) - 60), len(encoded))
        at = data.draw(ends | st.integers(0, len(encoded)))
        size = data.draw(st.integers(0, 2))
        new = data.draw(st.binary(max_size=2) | st.sampled_from([b"\x18\x01", b"\x98", b"\x59"]))
        encoded = encoded[:at] + new + encoded[at + size :]
    return encoded


@given(bundles, st.data())
def test_a_header_with_the_usual_form_is_one_that_the_codec_reads(
    bundle: Bundle, data: st.DataObject
) -> None:
    encoded = changed(bundle.header_bytes, data)

    if (fields := header_parts(encoded)) is not None:
        assert [*fields[:4], list(fields[4]), *fields[5:]] == dagcbor.decode(encoded)


@given(bundles, st.data())
def test_an_envelope_with_the_usual_form_is_one_that_the_codec_reads(
    bundle: Bundle, data: st.DataObject
) -> None:
    encoded = changed(bundle.encode(), data)

    if (parts := envelope_parts(encoded)) is not None:
        assert [*parts[:2], list(parts[2])] == dagcbor.decode(encoded, max_bytes=1 << 20)


def test_a_place_that_no_feed_has_is_refused() -> None:
    good = bundle_of(Place(1, 0, None), 1).header_bytes
    fields = dagcbor.decode(good)
    for change in (
        {2: MAX_EPOCH},
        {3: 5},
        {5: CID.of(b"before")},
        {3: MAX_SEQUENCE, 5: CID.of(b"")},
    ):
        encoded = dagcbor.encode([change.get(at, field) for at, field in enumerate(fields)])
        assert header_parts(encoded) is not None

        with pytest.raises(RemoteProtocolError):
            Header.decode(encoded)


@pytest.mark.parametrize("cut", [0, 1, 3, 50, 180, 250, -1])
def test_what_ends_early_has_no_form(cut: int) -> None:
    data = bundle_of(Place(1, 0, None), 2).encode()

    assert envelope_parts(data[:cut]) is None
    assert envelope_parts(data + b"\0") is None
