from __future__ import annotations

from hypothesis import example, given, strategies as st

from protocols.journal import (
    HEAD_BYTES,
    HEADER_BYTES,
    Damage,
    Entry,
    EpochBody,
    HeaderBody,
    RecordBody,
    Scanned,
    decode_header,
    encode_entry,
    encode_header,
    scan,
)

SALT = bytes(range(1, 17))

bodies = st.lists(st.binary(max_size=60), max_size=8)


def _file(contents: list[bytes]) -> bytes:
    return b"".join(encode_entry(SALT, Entry.BUNDLE, body) for body in contents)


def _bodies(buffer: bytes) -> list[bytes]:
    return [found.body for found in scan(buffer, SALT) if isinstance(found, Scanned)]


@given(bodies)
def test_entries_come_back_in_order_and_whole(contents: list[bytes]) -> None:
    assert _bodies(_file(contents)) == contents


@given(bodies, st.binary(max_size=60), st.integers(1, 79))
def test_a_torn_tail_costs_nothing_before_it(contents: list[bytes], last: bytes, kept: int) -> None:
    torn = encode_entry(SALT, Entry.BUNDLE, last)
    torn = torn[: min(kept, len(torn) - 1)]

    assert _bodies(_file(contents) + torn) == contents


@given(bodies, st.integers(0, 200))
def test_a_zeroed_tail_costs_nothing_before_it(contents: list[bytes], zeros: int) -> None:
    assert _bodies(_file(contents) + bytes(zeros)) == contents


@given(bodies, st.binary(max_size=200))
@example([b"kept"], SALT)
@example([b"kept"], SALT[:4] * 20)
def test_a_garbage_tail_costs_nothing_before_it(contents: list[bytes], garbage: bytes) -> None:
    assert _bodies(_file(contents) + garbage) == contents


@given(bodies.filter(bool), st.data())
def test_a_flipped_bit_costs_its_own_entry_and_no_other(
    contents: list[bytes], data: st.DataObject
) -> None:
    whole = bytearray(_file(contents))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))

    end = 0
    hit = -1
    while end <= position:
        hit += 1
        end += HEAD_BYTES + len(contents[hit])
    assert _bodies(bytes(whole)) == contents[:hit] + contents[hit + 1 :]


def test_damage_in_the_middle_is_told() -> None:
    entries = [encode_entry(SALT, Entry.RECORD, body) for body in (b"one", b"two", b"three")]
    whole = entries[0] + bytes(len(entries[1])) + entries[2]

    found = list(scan(whole, SALT))

    assert found[1] == Damage(len(entries[0]), len(entries[0] + entries[1]))


def test_an_entry_inside_a_body_is_never_taken_for_one_of_ours() -> None:
    # The salt of another journal is all that another peer can know.
    planted = encode_entry(bytes(16), Entry.RECORD, b"planted")
    whole = bytearray(_file([planted, b"next"]))
    whole[0] ^= 1

    assert _bodies(bytes(whole)) == [b"next"]


@given(st.binary(min_size=16, max_size=16), st.integers(0, HEADER_BYTES - 1))
def test_one_damaged_copy_of_the_header_loses_nothing(salt: bytes, position: int) -> None:
    header = bytearray(encode_header(salt))
    header[position] ^= 0x40

    assert decode_header(bytes(header)) == salt


@given(st.binary(max_size=100))
def test_what_is_no_journal_has_no_salt(start: bytes) -> None:
    assert decode_header(start) is None


@given(st.integers(0, 1 << 48), st.integers(0, 1 << 60), st.binary(max_size=50))
def test_bodies_survive_the_round_trip(epoch: int, sequence: int, content: bytes) -> None:
    for body in (
        RecordBody(epoch, sequence, content),
        HeaderBody(content, bytes(64)),
        EpochBody(epoch, 1, sequence),
    ):
        assert type(body).decode(body.encode()) == body
