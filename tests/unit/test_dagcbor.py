from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings, strategies as st

from protocols import dagcbor
from protocols.cid import CID, DAG_CBOR, RAW, AnyCID
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import MAX_CBOR_CONTAINERS, MAX_CBOR_DEPTH, MAX_CBOR_ITEMS
from tests.support.hostile_blocks import CASES
from tests.support.plain_dagcbor import FaultError, read

cids = st.builds(CID.of, st.binary(max_size=8), st.sampled_from([RAW, DAG_CBOR]))
floats = st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda x: x != 0 or str(x) == "0.0"
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | floats
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | cids
)
foreign_cids = st.builds(
    lambda codec, digest: AnyCID(b"\x01" + codec + b"\x00" + bytes((len(digest),)) + digest),
    st.sampled_from([b"\x55", b"\x70", b"\xa9\x02"]),
    st.binary(max_size=100),
) | st.builds(lambda digest: AnyCID(b"\x12\x20" + digest), st.binary(min_size=32, max_size=32))


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner) | st.dictionaries(st.text(max_size=8), inner)


values = st.recursive(leaves, containers, max_leaves=40)


@given(values)
def test_a_value_survives_the_round_trip_with_its_types(value: Any) -> None:
    encoded = dagcbor.encode(value)

    assert dagcbor.decode(encoded) == value
    assert dagcbor.decode_verified(encoded) == value
    assert _types(dagcbor.decode(encoded)) == _types(value)


@given(values)
def test_decoding_and_encoding_gives_the_same_bytes(value: Any) -> None:
    encoded = dagcbor.encode(value)

    assert dagcbor.encode(dagcbor.decode(encoded)) == encoded


@given(st.dictionaries(st.text(max_size=8), leaves | containers(leaves)))
def test_a_flat_map_is_encoded_as_any_other(values: dict[str, Any]) -> None:
    assert dagcbor.encode_flat(values) == dagcbor.encode(values)


@pytest.mark.parametrize(
    "values", [{1: 2}, {"a": float("nan")}, {"a": -0.0}, {"a": 1 << 64}, {"\ud800": 1}, {"a": {1}}]
)
def test_a_flat_map_that_has_no_encoding_is_refused(values: dict[Any, Any]) -> None:
    for encode in (dagcbor.encode, dagcbor.encode_flat):
        with pytest.raises(LocalProtocolError):
            encode(values)


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_decode_to_what_encodes_to_them_or_are_refused(data: bytes) -> None:
    try:
        value = dagcbor.decode(data)
    except RemoteProtocolError:
        return
    assert dagcbor.encode(value) == data


@given(values, st.data())
def test_a_flipped_bit_gives_another_valid_value_or_is_refused(
    value: Any, data: st.DataObject
) -> None:
    encoded = bytearray(dagcbor.encode(value))
    position = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[position // 8] ^= 1 << position % 8

    try:
        flipped = dagcbor.decode(bytes(encoded))
    except RemoteProtocolError:
        return
    assert dagcbor.encode(flipped) == bytes(encoded)


@given(st.lists(values, min_size=1), st.integers(5_000, 20_000))
def test_large_values_pass_the_scan_that_bounds_them(items: list[Any], filler: int) -> None:
    value = [*items, bytes(filler), "x" * 300]

    assert dagcbor.decode(dagcbor.encode(value)) == value


def test_map_keys_are_sorted_by_length_and_then_by_bytes() -> None:
    encoded = dagcbor.encode({"bb": 1, "a": 2, "aaa": 3, "b": 4, "é": 5})

    assert list(dagcbor.decode(encoded)) == ["a", "b", "bb", "é", "aaa"]


def test_floats_keep_64_bits() -> None:
    assert dagcbor.encode(1.5) == bytes.fromhex("fb3ff8000000000000")


HOSTILE = {
    "nothing": "",
    "bytes after the value": "0000",
    "a number in two bytes that fits in one": "1817",
    "a half float": "f93e00",
    "a single float": "fa3fc00000",
    "not a number": "fb7ff8000000000000",
    "infinity": "fb7ff0000000000000",
    "minus zero": "fb8000000000000000",
    "undefined": "f7",
    "a simple value": "f0",
    "a break": "ff",
    "an indefinite list": "9f00ff",
    "an indefinite text": "7f6161ff",
    "keys out of order": "a2616200616100",
    "a longer key first": "a262616100616200",
    "a duplicate key": "a2616100616100",
    "a number as key": "a10000",
    "bytes as key": "a1416100",
    "text that is not UTF-8": "62fffe",
    "a declared length without content": "5b7fffffffffffffff",
    "a declared count without content": "9b7fffffffffffffff00",
    "a date": "c16b",
    "a bignum": "c24101",
    "a decimal with a huge exponent": "c4821b000000003b9aca0001",
    "a bigfloat with a huge exponent": "c5821b000000003b9aca0001",
    "a reference to itself": "d81c81d81d00",
    "a string reference": "d901008263616263d81900",
    "a pattern": "d8236128",
    "a mail": "d824613a",
    "a set": "d9010280",
    "self-described CBOR": "d9d9f700",
    "an unknown tag": "d9fffe00",
    "a link that is no bytes": "d82a6100",
    "a link without its zero byte": "d82a582401711220" + "00" * 32,
    "a link of another codec": "d82a58250001701220" + "00" * 32,
    "a link of another hash": "d82a58250001711320" + "00" * 32,
    "a version 0 link": "d82a5823001220" + "00" * 32,
    "a short link": "d82a4100",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_strict_is_refused(name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        dagcbor.decode(bytes.fromhex(HOSTILE[name]))


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_strict_is_refused_inside_a_large_block_too(name: str) -> None:
    data = b"\x82" + dagcbor.encode(bytes(5_000)) + bytes.fromhex(HOSTILE[name])

    with pytest.raises(RemoteProtocolError):
        dagcbor.decode(data)


@pytest.mark.parametrize("tag", [*range(300), 1004, 43000, 43001, 55799, 1 << 20])
def test_no_tag_but_a_link_means_anything(tag: int) -> None:
    for content in (0, 1.5, b"abc", "abc", [0, 1], {"a": 1}):
        with pytest.raises(RemoteProtocolError):
            dagcbor.decode(_tag_head(tag) + cbor2.dumps(content))


FLOODS = {
    "empty lists": b"\x80",
    "empty maps": b"\xa0",
    "zeros": b"\x00",
    "empty texts": b"\x60",
    "nested pairs": b"\x81\x00",
    "short texts": b"\x61a",
    "numbers": b"\x19\xff\xff",
    "maps": b"\xa1\x60\x00",
    "bad links": b"\xd8\x2a\x40",
    "lengths that are not minimal": b"\x58\x00",
    "links of lengths that are not minimal": b"\xd8\x2a\x58\x00",
    "short foreign links": b"\xd8\x2a\x45\x00\x01\x55\x00\x00",
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("size", [4_000, 20_100, 65_000])
def test_a_flood_of_small_items_is_bounded(name: str, size: int) -> None:
    count = size // len(FLOODS[name])
    data = b"\x99" + count.to_bytes(2, "big") + FLOODS[name] * count

    try:
        value = dagcbor.decode(data)
    except RemoteProtocolError:
        return
    assert len(value) <= MAX_CBOR_ITEMS


@pytest.mark.parametrize("name", CASES)
def test_a_block_that_is_made_to_hurt_is_answered_as_the_specification_says(name: str) -> None:
    data = CASES[name]()

    for profile in (dagcbor.RECORD, dagcbor.GENERIC):
        try:
            expected = read(data, is_record=profile is dagcbor.RECORD)
        except FaultError:
            with pytest.raises(RemoteProtocolError):
                dagcbor.decode(data, profile=profile)
        else:
            assert dagcbor.decode(data, profile=profile) == expected


def test_integer_keys_that_collide_are_refused_before_they_cost_anything() -> None:
    pairs = b"".join(cbor2.dumps(i * ((1 << 61) - 1)) + b"\0" for i in range(6_000))

    with pytest.raises(RemoteProtocolError):
        dagcbor.decode(b"\xb9" + (6_000).to_bytes(2, "big") + pairs)


def test_depth_is_limited_alike_in_both_directions() -> None:
    deepest: Any = 0
    for _ in range(MAX_CBOR_DEPTH):
        deepest = [deepest]

    encoded = dagcbor.encode(deepest)

    assert dagcbor.decode(encoded) == deepest
    with pytest.raises(LocalProtocolError):
        dagcbor.encode([deepest])
    with pytest.raises(RemoteProtocolError):
        dagcbor.decode(b"\x81" + encoded)


def test_a_link_may_stand_in_the_deepest_list() -> None:
    value: Any = CID.of(b"")
    for _ in range(MAX_CBOR_DEPTH):
        value = [value]

    assert dagcbor.decode(dagcbor.encode(value)) == value
    with pytest.raises(RemoteProtocolError):
        dagcbor.decode(b"\x81" + dagcbor.encode(value))


def test_the_number_of_items_is_limited_alike_in_both_directions() -> None:
    most = [0] * MAX_CBOR_ITEMS

    assert dagcbor.decode(dagcbor.encode(most)) == most
    with pytest.raises(LocalProtocolError):
        dagcbor.encode([*most, 0])
    with pytest.raises(RemoteProtocolError):
        dagcbor.decode(cbor2.dumps([*most, 0]))


def test_the_number_of_containers_is_limited_alike_in_both_directions() -> None:
    most: list[Any] = [[], {}, CID.of(b"")] * ((MAX_CBOR_CONTAINERS - 1) // 3)
    most += [[]] * (MAX_CBOR_CONTAINERS - 1 - len(most))

    assert dagcbor.decode(dagcbor.encode(most)) == most
    with pytest.raises(LocalProtocolError):
        dagcbor.encode([*most, []])
    one_more = b"\x99" + (len(most) + 1).to_bytes(2, "big") + dagcbor.encode(most)[3:]
    for last in (b"\x80", b"\xa0", dagcbor.encode(CID.of(b""))):
        with pytest.raises(RemoteProtocolError):
            dagcbor.decode(one_more + last)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -0.0,
        1 << 64,
        -(1 << 64) - 1,
        {1: 2},
        {b"a": 1},
        {1, 2},
        object(),
        "\ud800",
        {"\ud800": 1},
        bytearray(b"a"),
    ],
)
def test_what_has_no_encoding_is_our_own_fault(value: Any) -> None:
    with pytest.raises(LocalProtocolError):
        dagcbor.encode(value)


def test_a_very_deep_value_is_refused_and_does_not_crash_the_process() -> None:
    deep: Any = 0
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(LocalProtocolError):
        dagcbor.encode(deep)
    while deep:  # taken apart step by step: Python's own deallocation recurses
        deep = deep[0]


def test_sizes_are_limited_in_both_directions() -> None:
    with pytest.raises(LocalProtocolError):
        dagcbor.encode(bytes(100), max_bytes=100)
    with pytest.raises(RemoteProtocolError):
        dagcbor.decode(dagcbor.encode(bytes(100)), max_bytes=100)


FOREIGN = {
    "of version 0": b"\x12\x20" + bytes(32),
    "of another codec": b"\x01\x70\x12\x20" + bytes(32),
    "of a longer hash": b"\x01\x71\x13\x40" + bytes(64),
    "of a codec in two bytes": b"\x01\xa9\x02\x12\x20" + bytes(32),
    "with its content inside": b"\x01\x55\x00\x03abc",
    "with nothing inside": b"\x01\x55\x00\x00",
}


@pytest.mark.parametrize("filler", [0, 5_000])
@pytest.mark.parametrize("name", FOREIGN)
def test_only_foreign_blocks_hold_a_link(name: str, filler: int) -> None:
    value = {"link": AnyCID(FOREIGN[name]), "filler": bytes(filler)}
    encoded = dagcbor.encode(value, profile=dagcbor.GENERIC)

    decoded = dagcbor.decode(encoded, profile=dagcbor.GENERIC)

    assert decoded == value
    assert type(decoded["link"]) is AnyCID
    with pytest.raises(RemoteProtocolError):
        dagcbor.decode(encoded)
    with pytest.raises(LocalProtocolError):
        dagcbor.encode(value)


def test_only_foreign_blocks_hold_minus_zero() -> None:
    encoded = bytes.fromhex("fb8000000000000000")

    decoded = dagcbor.decode(encoded, profile=dagcbor.GENERIC)

    assert str(decoded) == "-0.0"
    assert dagcbor.encode(decoded, profile=dagcbor.GENERIC) == encoded
    assert dagcbor.encode(0.0, profile=dagcbor.GENERIC) == bytes.fromhex("fb0000000000000000")


@given(st.recursive(leaves | foreign_cids | st.just(-0.0), containers, max_leaves=40))
def test_foreign_blocks_survive_the_round_trip(value: Any) -> None:
    encoded = dagcbor.encode(value, profile=dagcbor.GENERIC)

    decoded = dagcbor.decode(encoded, profile=dagcbor.GENERIC)

    assert decoded == value
    assert _types(decoded) == _types(value)
    assert dagcbor.encode(decoded, profile=dagcbor.GENERIC) == encoded


MALFORMED_CIDS = {
    "of version 0 with a longer digest": b"\x12\x20" + bytes(33),
    "of version 0 with another hash": b"\x13\x20" + bytes(32),
    "of version 0 in the form of version 1": b"\x00\x70\x12\x20" + bytes(32),
    "of version 2": b"\x02\x71\x12\x20" + bytes(32),
    "that is empty": b"",
    "without a digest": b"\x01\x71\x12",
    "whose digest is too short": b"\x01\x71\x12\x20" + bytes(31),
    "whose digest is too long": b"\x01\x71\x12\x20" + bytes(33),
    "whose codec is not minimal": b"\x01\xf1\x00\x12\x20" + bytes(32),
    "whose codec does not end": b"\x01" + b"\xff" * 9 + b"\x01\x12\x20" + bytes(32),
    "as text in base32": b"bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua",
}


@pytest.mark.parametrize("name", MALFORMED_CIDS)
def test_no_block_holds_a_link_to_a_malformed_cid(name: str) -> None:
    raw = MALFORMED_CIDS[name]

    with pytest.raises(RemoteProtocolError):
        dagcbor.decode(b"\xd8\x2a" + dagcbor.encode(b"\0" + raw), profile=dagcbor.GENERIC)
    with pytest.raises(LocalProtocolError):
        dagcbor.encode(AnyCID(raw), profile=dagcbor.GENERIC)


def _tag_head(tag: int) -> bytes:
    head = bytearray(cbor2.dumps(tag))
    head[0] |= 0xC0
    return bytes(head)


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_types(item) for item in value]
    return type(value)
