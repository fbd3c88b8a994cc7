"""The input of a job, for kinds with and without parameters, of texts and of bytes."""

from __future__ import annotations

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given, strategies as st

from node.runner.items import InputCodec, listed
from node.runner.kinds import BadInputError
from node.runner.parameters import Parameter, pack

TABLE = (Parameter("size", int, "How much.", default=1, least=1, most=9),)
TEXTS = InputCodec(str, TABLE, 3, 8, 64)
FILES = InputCodec(bytes, TABLE, 3, 8, 64)
BARE = InputCodec(bytes, (), 3, 8, 64)
LARGE = InputCodec(bytes, TABLE, 300, 1 << 20, 1 << 21)
SHARED = b"\x83" + cbor2.dumps(pack(TABLE, {})) + b"\xd8\x1c\x58\x05hello\xd8\x1d\x00"
"""As long as the one form of its two items, of which the second is a reference to the first."""


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=3), st.integers(1, 9))
def test_items_and_parameters_come_back(items: list[bytes], size: int) -> None:
    content = FILES.encode(items, {"size": size})

    assert FILES.decode(content) == (items, {"size": size})
    assert BARE.decode(BARE.encode(items, {})) == (items, {})


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65_535, 65_536])
@pytest.mark.parametrize("number", [1, 22, 23, 24, 255, 256])
def test_items_of_every_size_and_number_are_read_back(size: int, number: int) -> None:
    items = [b"x" * size, *[b"y"] * (number - 1)]

    assert LARGE.decode(LARGE.encode(items, {})) == (items, {"size": 1})


@given(st.binary(max_size=80))
def test_any_bytes_are_an_input_or_bad_input(content: bytes) -> None:
    for codec in (TEXTS, FILES, BARE):
        with suppress(BadInputError):
            items, parameters = codec.decode(content)
            assert codec.encode(items, parameters) == content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a DAG-CBOR list of files"),
        (cbor2.dumps({}), "not a DAG-CBOR list of files"),
        (b"\x9a\xff\xff\xff\xff", "more than 3 items"),
        (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "more than 3 items"),
        (b"\x83\x40", "not a DAG-CBOR list of files"),
        (cbor2.dumps([pack(TABLE, {})]), "holds no files"),
        (cbor2.dumps([pack(TABLE, {}), "text"]), "item 0 is not bytes"),
        (cbor2.dumps([pack(TABLE, {}), [b""]]), "not a DAG-CBOR list of files"),
        (cbor2.dumps(["size", b"a"]), "begin with its parameters"),
        (cbor2.dumps([b"\xa0\xa0", b"a"]), "parameters are not a DAG-CBOR map"),
        (cbor2.dumps([b"\x80", b"a"]), "parameters are not a DAG-CBOR map"),
        (b"\x98\x02" + cbor2.dumps(pack(TABLE, {})) + b"\x40", "one form"),
        (b"\x82\x58\x01\xa0\x40", "one form"),
        (b"\x82" + cbor2.dumps(pack(TABLE, {})) + b"\x58\x01a", "one form"),
        (cbor2.dumps([pack(TABLE, {}), b"a"]) + b"\x40", "one form|not a DAG-CBOR list"),
        (SHARED, "not a DAG-CBOR list of files"),
        (b"\x82\xd8\x18\x41\xa0\x41a", "begin with its parameters|not a DAG-CBOR list"),
        (cbor2.dumps([pack(TABLE, {}), b"a" * 9]), "item 0 is larger than 8 bytes"),
        (b"\x00" * 65, "65 bytes is over the limit of 64"),
    ],
)
def test_what_nobody_could_have_encoded_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        FILES.decode(content)


def test_limits_hold_for_what_is_encoded_too() -> None:
    with pytest.raises(BadInputError, match="holds no texts"):
        TEXTS.encode([], {})
    with pytest.raises(BadInputError, match="more than 3 items"):
        TEXTS.encode(["a"] * 4, {})
    with pytest.raises(BadInputError, match="item 1 is larger than 8 bytes"):
        TEXTS.encode(["a", "\N{PARROT}" * 3], {})
    with pytest.raises(BadInputError, match="item 0 is not a text"):
        TEXTS.encode([b"a"], {})
    with pytest.raises(BadInputError, match="lone surrogate"):
        TEXTS.encode(["\ud800"], {})
    with pytest.raises(BadInputError, match="no parameter 'size'"):
        BARE.encode([b"a"], {"size": 1})


def test_an_output_that_is_no_flat_list_is_told_apart() -> None:
    assert listed(cbor2.dumps([1, b"a"]), 2) == [1, b"a"]
    for wrong in (b"", b"\xff", cbor2.dumps({}), cbor2.dumps([[1]])):
        with pytest.raises(ValueError, match="DAG-CBOR list"):
            listed(wrong, 2)


def test_a_list_that_claims_more_than_it_may_hold_is_refused_before_it_is_decoded() -> None:
    for claimed in (cbor2.dumps([b""] * 3), b"\x9a\xff\xff\xff\xff", b"\x9b" + b"\xff" * 8):
        with pytest.raises(ValueError, match="more than 2 items"):
            listed(claimed, 2)
