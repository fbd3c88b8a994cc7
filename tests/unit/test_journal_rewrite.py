from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest
from hypothesis import given, strategies as st

from protocols.errors import LocalProtocolError
from protocols.journal import (
    FILLER,
    HEAD_BYTES,
    Damage,
    Entry,
    Scanned,
    encode_entry,
    encode_header,
    scan,
)
from protocols.journal_rewrite import Kept, rewritten

SALT = bytes(range(16))

Changes = Mapping[int, bytes | None]


def segment(*bodies: bytes) -> tuple[bytes, list[int]]:
    """Return a segment with entries of these bodies, and where each starts."""
    content, offsets = encode_header(SALT), list[int]()
    for body in bodies:
        offsets.append(len(content))
        content += encode_entry(SALT, Entry.SALT, body)
    return content, offsets


def apply(
    content: bytes, changes: Changes, hole: bytes = b"\0", healed: Collection[Damage] = ()
) -> bytes:
    """Return the segment after ``changes``, with its holes full of ``hole``."""
    new = bytearray(hole * len(content))
    for piece in rewritten(content, SALT, changes, healed):
        if isinstance(piece, Kept):
            new[piece.start : piece.end] = content[piece.start : piece.end]
        else:
            new[piece.position : piece.position + len(piece.content)] = piece.content
    return bytes(new)


def bodies(content: bytes) -> dict[int, bytes]:
    found = (f for f in scan(content, SALT, len(encode_header(SALT))) if isinstance(f, Scanned))
    return {f.offset: f.body for f in found if f.kind != FILLER}


def parts(content: bytes) -> list[Scanned | Damage]:
    return list(scan(content, SALT, len(encode_header(SALT))))


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.none() | st.just("keep") | st.integers(0, 60))),
    st.binary(min_size=1, max_size=1),
)
def test_whatever_is_changed_every_other_entry_stays_where_it_is(
    plan: list[tuple[bytes, str | int | None]], hole: bytes
) -> None:
    content, offsets = segment(*(body for body, _ in plan))
    changes: dict[int, bytes | None] = {}
    for offset, (body, fate) in zip(offsets, plan, strict=True):
        if fate is None:
            changes[offset] = None
        elif isinstance(fate, int):
            changes[offset] = body[:fate]
    expected = {
        offset: changes.get(offset, body)
        for offset, (body, _) in zip(offsets, plan, strict=True)
        if changes.get(offset, body) is not None
    }

    new = apply(content, changes, hole)

    assert len(new) == len(content)
    assert bodies(new) == expected
    assert not [part for part in parts(new) if isinstance(part, Damage)]
    assert apply(new, changes, hole) == new, "doing it again changes nothing"


def test_neighbours_that_are_erased_share_one_filler_however_often_it_is_done() -> None:
    content, offsets = segment(b"a" * 99, b"b" * 99, b"c" * 99, b"d")

    content = apply(content, {offsets[1]: None})
    content = apply(content, {offsets[0]: None})
    content = apply(content, {offsets[2]: None})

    assert [(p.offset, p.end_offset) for p in parts(content)] == [
        (offsets[0], offsets[3]),
        (offsets[3], len(content)),
    ]


def test_a_body_that_is_longer_is_refused() -> None:
    content, offsets = segment(b"short")

    with pytest.raises(LocalProtocolError):
        apply(content, {offsets[0]: b"longer than that"})


@pytest.mark.parametrize("body", [None, b"x"])
def test_a_change_where_no_entry_starts_is_refused(body: bytes | None) -> None:
    content, offsets = segment(b"one" * 30, b"two")

    with pytest.raises(LocalProtocolError):
        apply(content, {offsets[0] + 1: body})


@pytest.mark.parametrize("at", [0, 1])
def test_what_was_erased_meanwhile_stays_erased(at: int) -> None:
    content, offsets = segment(b"one" * 30, b"two" * 30, b"three")
    content = apply(content, {offsets[0]: None, offsets[1]: None})

    assert apply(content, {offsets[at]: b"shorter"}) == content


def damaged() -> tuple[bytes, list[int]]:
    """Return a segment of three entries, the second of which rotted."""
    content, offsets = segment(b"one" * 30, b"two" * 30, b"three")
    rotted = bytearray(content)
    rotted[offsets[1] + HEAD_BYTES] ^= 1
    return bytes(rotted), offsets


def test_damaged_bytes_go_with_any_change_and_stay_damage() -> None:
    content, offsets = damaged()

    new = apply(content, {offsets[0]: None})

    assert [part for part in parts(new) if isinstance(part, Damage)] == [Damage(*offsets[1:])]
    assert new[offsets[1] : offsets[2]] == bytes(offsets[2] - offsets[1])
    assert bodies(new) == {offsets[2]: b"three"}


def test_of_healed_damage_nothing_is_left() -> None:
    content, offsets = damaged()

    new = apply(content, {}, healed=[Damage(*offsets[1:])])

    assert not [part for part in parts(new) if isinstance(part, Damage)]
    assert bodies(new) == {offsets[0]: b"one" * 30, offsets[2]: b"three"}
    assert b"two" not in new


def test_a_damaged_end_goes_too() -> None:
    content, offsets = segment(b"one", b"two")
    content = content[:-1] + b"?"

    new = apply(content, {})

    assert new == content[: offsets[1]] + bytes(len(content) - offsets[1])


def test_what_rotted_before_it_was_erased_is_no_mistake() -> None:
    content, offsets = damaged()

    assert apply(content, {offsets[1]: None}) == apply(content, {})


def test_a_flipped_bit_in_a_fillers_head_is_damage_and_in_its_hole_is_nothing() -> None:
    content, offsets = segment(b"one" * 30, b"two")
    new = bytearray(apply(content, {offsets[0]: None}))

    new[offsets[0] + HEAD_BYTES + 5] ^= 1
    assert bodies(bytes(new)) == {offsets[1]: b"two"}
    assert not [part for part in parts(bytes(new)) if isinstance(part, Damage)]
    new[offsets[0] + 6] ^= 1
    assert [part for part in parts(bytes(new)) if isinstance(part, Damage)] == [Damage(*offsets)]


def test_a_header_that_rotted_is_whole_again_after_a_rewrite() -> None:
    content, offsets = segment(b"one", b"two")

    new = apply(bytes(len(encode_header(SALT))) + content[len(encode_header(SALT)) :], {})

    assert new == content
    assert offsets
