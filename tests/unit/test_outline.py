from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from protocols import dagcbor
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_SEQUENCE
from protocols.outline import Outline, _decoded, outline_verified
from protocols.record import GENERATED, INFORMED_BY, USED, Record, check
from protocols.record_form import MOST_BYTES, author_if_usual
from tests.support.feeds import START_US, key, record

AUTHOR = key(1)

cids = st.builds(CID.of, st.binary(max_size=4), st.sampled_from([0x55, 0x71]))
words = st.text("ab.\0\x7f", min_size=1, max_size=26) | st.just("schön")
links = st.lists(st.tuples(cids, words), max_size=10).map(tuple)
counts = st.integers(0, MAX_SEQUENCE) | st.integers(0, 70_000)
leaves = (
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.integers(-300, 70_000)
)
leaves |= st.text("a \0é\U0001f600", max_size=70) | st.binary(max_size=70) | cids
leaves |= st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0)
records = st.builds(
    Record,
    author=st.binary(min_size=32, max_size=32),
    nonce=st.binary(max_size=32),
    kind=words,
    used=links,
    generated=links,
    informed_by=st.lists(cids, max_size=10).map(tuple),
    environment=st.none() | cids,
    hardware=st.none() | cids,
    start_us=counts,
    duration_us=counts,
    status=words,
    attributes=st.dictionaries(words, leaves | st.lists(leaves, max_size=2), max_size=5),
)

USUAL = Record(
    author=AUTHOR.public,
    nonce=bytes(8),
    kind="job.run",
    used=((CID.of(b"model"), "model"), (CID.of(b"input", 0x55), "input")),
    generated=((CID.of(b"output", 0x55), "output"),),
    informed_by=(CID.of(b"submitted"),),
    environment=CID.of(b"environment"),
    hardware=CID.of(b"hardware"),
    start_us=START_US,
    duration_us=41_000,
    attributes={"a": -7, "bb": 1.5, "cc": b"id", "peer": "12D3Koo" + "x" * 45, "is": True},
)


@given(records)
def test_an_outline_says_what_the_record_says(item: Record) -> None:
    outline = outline_verified(item.encode())

    assert (outline.kind, outline.status) == (item.kind, item.status)
    assert (outline.environment, outline.hardware) == (item.environment, item.hardware)
    assert (outline.start_us, outline.duration_us) == (item.start_us, item.duration_us)
    assert dagcbor.decode(outline.attributes) == item.attributes
    assert outline.attributes == dagcbor.encode(item.attributes)
    assert outline.links == [
        *((USED, role, target) for target, role in item.used),
        *((GENERATED, role, target) for target, role in item.generated),
        *((INFORMED_BY, "", target) for target in item.informed_by),
    ]


def test_an_outline_fills_in_what_an_author_left_out() -> None:
    fields = [1, AUTHOR.public, b"nonce", "kind", [], [], [], None, None, START_US]
    encoded = dagcbor.encode(fields)
    assert Record.decode(encoded).status == "ok"

    outline = outline_verified(encoded)

    assert (outline.duration_us, outline.status) == (0, "ok")
    assert dagcbor.decode(outline.attributes) == {}


def test_an_outline_ignores_what_a_later_version_adds() -> None:
    fields = [2, AUTHOR.public, b"", "kind", [], [], [], None, None, 0, 0, "ok", {"a": 1}, "new"]

    outline = outline_verified(dagcbor.encode(fields))

    assert dagcbor.decode(outline.attributes) == {"a": 1}


@pytest.mark.parametrize("item", [USUAL, record(AUTHOR)])
def test_what_jobs_record_has_the_usual_form(item: Record) -> None:
    assert author_if_usual(item.encode()) == AUTHOR.public


@given(records)
def test_a_record_that_is_checked_is_one_that_is_decoded(item: Record) -> None:
    encoded = item.encode()

    assert check(encoded) == item.author
    assert author_if_usual(encoded) in (item.author, None)
    assert outline_verified(encoded) == _decoded(encoded)


@given(st.data())
def test_whatever_has_the_usual_form_is_decoded(data: st.DataObject) -> None:
    """Damage, wherever it is: the pattern may refuse more than the codec, never less."""
    encoded = bytearray((data.draw(records) if data.draw(st.booleans()) else USUAL).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        size = data.draw(st.integers(0, 2))
        encoded[at : at + size] = data.draw(st.binary(max_size=2))

    if (author := author_if_usual(bytes(encoded))) is not None:
        assert Record.decode(bytes(encoded)).author == author


ODD_VALUES: list[tuple[str, bytes]] = [
    ("a number that is not minimal", b"\xa1\x61a\x18\x17"),
    ("two bytes where one does", b"\xa1\x61a\x19\x00\xff"),
    ("four bytes where two do", b"\xa1\x61a\x1a\x00\x00\xff\xff"),
    ("eight bytes where four do", b"\xa1\x61a\x3b\x00\x00\x00\x00\xff\xff\xff\xff"),
    ("a text whose length fits into its head", b"\xa1\x61a\x78\x01a"),
    ("infinity", b"\xa1\x61a\xfb\x7f\xf0" + bytes(6)),
    ("no number", b"\xa1\x61a\xfb\xff\xf8" + bytes(6)),
    ("minus zero", b"\xa1\x61a\xfb\x80" + bytes(7)),
    ("a short float", b"\xa1\x61a\xf9\x3c\x00"),
    ("undefined", b"\xa1\x61a\xf7"),
    ("a simple value", b"\xa1\x61a\xe0"),
    ("another tag", b"\xa1\x61a\xc1\x01"),
    ("a link to another kind of CID", b"\xa1\x61a\xd8\x2a\x58\x25\x00\x01\x70\x12\x20" + bytes(32)),
    ("broken UTF-8", b"\xa1\x61a\x61\xff"),
    ("keys out of order", b"\xa2\x61b\x01\x61a\x01"),
    ("a longer key first", b"\xa2\x62aa\x01\x61b\x01"),
    ("a key twice", b"\xa2\x61a\x01\x61a\x01"),
    ("a pair too few", b"\xa2\x61a\x01"),
    ("a pair too many", b"\xa1\x61a\x01\x61b\x01"),
    ("a key that is no text", b"\xa1\x01\x01"),
    ("an indefinite map", b"\xbf\x61a\x01\xff"),
    ("bytes behind it", b"\xa1\x61a\x01\x00"),
    ("a newline behind it", b"\xa1\x61a\x01\n"),
]


@pytest.mark.parametrize(("what", "attributes"), ODD_VALUES, ids=[what for what, _ in ODD_VALUES])
def test_what_no_record_may_hold_is_refused(what: str, attributes: bytes) -> None:
    empty = Record(author=AUTHOR.public, nonce=b"", kind="kind", start_us=0).encode()
    assert check(empty[:-1] + b"\xa1\x61a\x01") == AUTHOR.public

    with pytest.raises(RemoteProtocolError):
        check(empty[:-1] + attributes)


def test_a_large_record_is_left_to_the_codec() -> None:
    attributes: dict[str, Any] = {f"{number:03}": "x" * 60 for number in range(40)}
    item = Record(
        author=AUTHOR.public, nonce=b"", kind="kind", start_us=0, attributes=attributes
    ).encode()
    assert len(item) > MOST_BYTES

    assert author_if_usual(item) is None
    assert check(item) == AUTHOR.public
    assert isinstance(outline_verified(item), Outline)
