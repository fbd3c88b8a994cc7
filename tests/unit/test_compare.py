"""How each kind tells two outputs of one input apart."""

from __future__ import annotations

import cbor2
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as np_st

from node.runner.kinds import KINDS, embed, generate, kind_named, noop
from node.runner.text_output import piece
from protocols.errors import RemoteProtocolError

TOLERANCE = embed.TOLERANCES["fp32"]
vectors = np_st.arrays(
    np.float32, (3, 4), elements=st.floats(-1, 1, width=32, allow_subnormal=False)
)


def encode(array: np.ndarray) -> bytes:
    rows, dimension = array.shape
    return cbor2.dumps([embed.DTYPE, rows, dimension, array.astype("<f4").tobytes()])


@given(vectors, vectors)
def test_embeddings_are_as_far_apart_in_both_directions_and_equal_only_to_themselves(
    one: np.ndarray, other: np.ndarray
):
    there = embed.compare(encode(one), encode(other), TOLERANCE)
    back = embed.compare(encode(other), encode(one), TOLERANCE)

    assert there == back
    assert there.amount is not None
    assert 0 <= there.amount <= 2
    assert (there.amount == 0) == np.array_equal(one, other)
    assert embed.compare(encode(one), encode(one), 0.0).is_within


@given(vectors, st.integers(0, 2), st.integers(0, 3))
def test_what_rounding_does_is_within_and_a_hundredth_is_not(
    array: np.ndarray, row: int, column: int
):
    unit = array + np.float32(2.0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rounded, changed = unit * np.float32(1 + 2e-7), unit.copy()
    changed[row, column] += 0.01

    assert embed.compare(encode(unit), encode(rounded), TOLERANCE).is_within
    found = embed.compare(encode(unit), encode(changed), TOLERANCE)

    assert not found.is_within
    assert found.told == f"they part at row {row}"
    assert found.amount == pytest.approx(0.01, rel=0.02)


def test_a_vector_of_another_length_is_another_vector():
    unit = np.array([[1.0, 0.0]], dtype=np.float32)

    assert embed.compare(encode(unit), encode(unit * 2), TOLERANCE).amount == 0.5


def test_many_rows_are_compared_to_the_last():
    array = np.ones((2 * embed.COMPARED_ROWS + 5, 2), dtype=np.float32)
    changed = array.copy()
    changed[-1, 0] = 0.5

    found = embed.compare(encode(array), encode(changed), TOLERANCE)

    assert found.told == f"they part at row {len(array) - 1}"


def test_other_shapes_can_not_be_compared():
    one, two = np.ones((1, 4), dtype=np.float32), np.ones((2, 4), dtype=np.float32)

    found = embed.compare(encode(one), encode(two), 2.0)

    assert (found.amount, found.is_within) == (None, False)


def text(*words: str, end: str = "stop", index: int = 0) -> bytes:
    """An output of one item, a token a word."""
    parts = [piece(index, word, None, 1) for word in words]
    return b"".join([*parts, piece(index, "", end, 1)])


def test_texts_part_at_a_token():
    found = generate.compare(text("one", " two", " three"), text("one", " two", " four"), 0.0)

    assert (found.amount, found.is_within) == (1.0, False)
    assert found.told == "item 0 parts at token 3"


def test_a_text_that_goes_on_parts_where_the_other_ends():
    found = generate.compare(text("one"), text("one", " two"), 0.0)

    assert found.told == "item 0 parts at token 2"


def test_equal_texts_agree_however_they_were_cut_into_pieces():
    whole = piece(0, "one two", "stop", 3)

    assert generate.compare(text("one", " two"), whole, 0.0).is_within


def test_another_end_is_another_output():
    assert not generate.compare(text("one"), text("one", end="length"), 0.0).is_within


def test_the_share_of_items_that_part_is_told():
    one = text("a") + text("b", index=1)
    other = text("a") + text("c", index=1)

    found = generate.compare(one, other, 0.0)

    assert (found.amount, found.told) == (0.5, "item 1 parts at token 1")


def test_fewer_items_can_not_be_compared():
    assert generate.compare(text("a"), text("a") + text("b", index=1), 1.0).amount is None


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_noop_compares_bytes(one: bytes, other: bytes):
    assert noop.compare(one, other, 0.0).is_within == (one == other)


@pytest.mark.parametrize("kind", [embed, generate])
def test_what_is_no_output_breaks_the_protocol(kind: object):
    with pytest.raises(RemoteProtocolError):
        kind.compare(b"\xff", b"\xff", 0.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_declares_tolerances_that_can_be(name: str):
    assert all(0 <= tolerance < 1 for tolerance in kind_named(name).TOLERANCES.values())
