import math
import struct
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from protocols.cid import CID, RAW, commitment
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.job import (
    CODEC,
    Accept,
    Ack,
    Cancel,
    Chunk,
    Done,
    Fact,
    Failed,
    Input,
    Lease,
    Message,
    Offer,
    Refuse,
    Release,
    Renew,
    SessionHello,
    Terms,
    facts_of,
    timings_of,
)
from protocols.limits import (
    BULK_CHUNK_BYTES,
    MAX_BUDGET_MS,
    MAX_FENCE,
    MAX_INLINE_PIECE_BYTES,
    MAX_ITEMS,
    MAX_JOB_OUTPUT_BYTES,
)
from protocols.pieces import Incoming, Outgoing, Piece

job_ids = st.binary(min_size=16, max_size=16)
fences = st.integers(1, MAX_FENCE)
salts = st.binary(min_size=16, max_size=16)
digests = st.binary(min_size=32, max_size=32)
cids = digests.map(lambda digest: bytes(CID.of_digest(digest, RAW)))
names = st.text(min_size=1, max_size=48)
codes = st.from_regex(r"[a-z]{1,10}(-[a-z]{1,10}){0,2}", fullmatch=True)
facts = st.dictionaries(
    names, st.one_of(st.integers(-(2**63), 2**63), st.booleans(), st.text(max_size=96)), max_size=5
)
timings = st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=5)
budgets = st.integers(0, MAX_BUDGET_MS)
counts = st.integers(1, MAX_JOB_OUTPUT_BYTES)
progress = st.tuples(st.integers(0, MAX_ITEMS), st.integers(0, MAX_ITEMS)).map(sorted)
bodies = st.binary(max_size=200)

messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(SessionHello, st.integers(1, 9), st.lists(names, max_size=4).map(tuple)),
    st.builds(
        Offer,
        job_id=job_ids,
        fence=fences,
        kind=st.sampled_from(["embed", "bench.compute"]),
        model=names,
        precision=names,
        items=st.integers(0, MAX_ITEMS),
        size_bytes=st.integers(0, 1 << 40),
        budget_ms=budgets,
        input_cid=cids,
        input_salt=salts,
        output_salt=salts,
        requirements=facts,
    ),
    st.builds(Lease, job_ids, fences, budgets, st.integers(1, MAX_BUDGET_MS), st.booleans()),
    st.builds(lambda j, f, n, d: Lease(j, f, 0, 1, True, n, d), job_ids, fences, counts, digests),
    st.builds(Accept, job_ids, fences, counts, digests),
    st.builds(Refuse, job_ids, fences, codes, st.text(max_size=99), budgets, fences),
    st.builds(Accept, job_ids, fences),
    st.builds(Input, job_ids, fences, st.integers(0, 99), bodies, digests),
    st.builds(Release, job_ids, fences),
    st.builds(lambda j, f, p: Renew(j, f, *p), job_ids, fences, progress),
    st.builds(Chunk, job_ids, fences, st.integers(0, 99), bodies, digests),
    st.builds(
        Done, job_ids, fences, cids, st.integers(0, MAX_JOB_OUTPUT_BYTES), cids, timings, facts
    ),
    st.builds(
        Failed, job_ids, fences, codes, st.text(max_size=99), st.booleans(), cids, st.just(b"")
    ),
    st.builds(Cancel, job_ids, fences),
    st.builds(Ack, job_ids, fences),
)


def offer_with(content: bytes, size_bytes: int | None = None) -> Offer:
    size_bytes = len(content) if size_bytes is None else size_bytes
    cid, salt = bytes(CID.of(content, RAW)), bytes(16)
    terms = Terms(b"j" * 16, "embed", "m", "auto", 1, size_bytes, cid, salt, salt)
    return terms.offer(1, 1_000, content)


@given(bodies)
def test_an_offer_may_carry_all_of_a_small_input(content: bytes) -> None:
    whole = offer_with(content)

    assert CODEC.decode(CODEC.encode([whole])) == [whole]
    assert Terms.of(whole).offer(1, 1_000, content) == whole


@given(st.lists(messages, max_size=5))
def test_messages_come_back_as_they_were_sent(batch: list[Message]) -> None:
    assert CODEC.decode(CODEC.encode(batch)) == batch


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(payload: bytes) -> None:
    with suppress(RemoteProtocolError):
        CODEC.decode(payload)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Accept(b"short", 1),
        lambda: Accept(b"j" * 16, 0),
        lambda: Accept(b"j" * 16, MAX_FENCE + 1),
        lambda: Renew(b"j" * 16, 1, 3, 2),
        lambda: Chunk(b"j" * 16, 1, 0, bytes(BULK_CHUNK_BYTES + 1), bytes(32)),
        lambda: Chunk(b"j" * 16, 1, 0, b"", bytes(31)),
        lambda: Refuse(b"j" * 16, 1, "Not A Code", ""),
        lambda: Refuse(b"j" * 16, 1, "busy", "x" * 2_000),
        lambda: Failed(b"j" * 16, 1, "x", "", True, record_cid=b"no"),
        lambda: Done(b"j" * 16, 1, bytes(36), 0, bytes(36)),
        lambda: Lease(b"j" * 16, 1, 0, 0),
        lambda: SessionHello(0),
        lambda: offer_with(b"four", size_bytes=5),
        lambda: offer_with(bytes(MAX_INLINE_PIECE_BYTES + 1)),
        lambda: Accept(b"j" * 16, 1, 3),
        lambda: Accept(b"j" * 16, 1, 3, bytes(31)),
        lambda: Accept(b"j" * 16, 1, 0, bytes(32)),
        lambda: Accept(b"j" * 16, 1, MAX_JOB_OUTPUT_BYTES + 1, bytes(32)),
        lambda: Lease(b"j" * 16, 1, 0, 1, True, -1, bytes(32)),
        lambda: done_with(timings={"run_ms": math.nan}),
        lambda: done_with(timings={"run_ms": math.inf}),
        lambda: done_with(execution={"load": -math.inf}),
        lambda: done_with(b"of no size", size_bytes=0),
        lambda: done_with(bytes(MAX_INLINE_PIECE_BYTES + 1)),
    ],
)
def test_an_invalid_message_cannot_be_made(wrong: object) -> None:
    with pytest.raises(ValueError, match=" "):
        wrong()  # type: ignore[operator]


def done_with(
    output: bytes | None = None,
    size_bytes: int | None = None,
    timings: dict[str, float] | None = None,
    execution: dict[str, Fact] | None = None,
) -> Done:
    cid = bytes(CID.of(b""))
    size = len(output or b"") if size_bytes is None else size_bytes
    return Done(b"j" * 16, 1, cid, size, cid, timings or {}, execution or {}, output)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_makes_a_message_malformed(wrong: float) -> None:
    known = CODEC.encode([done_with({"run_ms": 0.5})])
    half = struct.pack(">d", 0.5)
    assert half in known

    with pytest.raises(RemoteProtocolError):
        CODEC.decode(known.replace(half, struct.pack(">d", wrong)))


def test_a_message_of_an_unknown_kind_is_refused() -> None:
    known = CODEC.encode([Ack(b"j" * 16, 1)])
    unknown = known.replace(b"\x81\x83\x0d", b"\x81\x83\x17")

    with pytest.raises(RemoteProtocolError):
        CODEC.decode(unknown)


def test_fields_that_a_later_version_appends_are_ignored() -> None:
    known = CODEC.encode([Ack(b"j" * 16, 1)])
    longer = known.replace(b"\x81\x83", b"\x81\x84") + b"\x18\x2a"

    assert CODEC.decode(longer) == [Ack(b"j" * 16, 1)]


def test_terms_survive_their_offer() -> None:
    terms = Terms(
        b"j" * 16, "embed", "m", "auto", 2, 5, bytes(CID.of(b"")), b"i" * 16, b"o" * 16, {"a": 1}
    )

    assert Terms.of(terms.offer(fence=3, budget_ms=1_000)) == terms


def test_what_a_runner_tells_is_cut_to_what_a_message_may_hold() -> None:
    told = {"engine": "x" * 500, "threads": 2, "shape": [1, 2], "none": None, "k" * 99: 1}

    assert facts_of(told) == {"engine": "x" * 96, "threads": 2, "shape": "[1, 2]"}
    assert timings_of(told) == {"threads": 2.0}
    assert len(facts_of({str(n): n for n in range(100)})) == 24
    assert timings_of({"run_ms": math.nan, "load_ms": math.inf, "cut_ms": 1}) == {"cut_ms": 1.0}


@given(salts, st.integers(0, 3 * BULK_CHUNK_BYTES))
def test_content_arrives_whole_and_is_what_was_committed_to(salt: bytes, size: int) -> None:
    content = bytes(n % 251 for n in range(size))
    outgoing = Outgoing.cut(salt, content)
    incoming = Incoming(salt, size)

    for piece in outgoing.pieces():
        assert not incoming.holds(size)
        incoming.add(piece)
        incoming.add(piece)  # a repeated piece changes nothing

    assert incoming.holds(size)
    assert incoming.content() == content
    assert incoming.cid == outgoing.cid == commitment(salt, content)


def test_a_damaged_piece_is_noticed_when_it_comes() -> None:
    first, *_ = Outgoing.cut(b"s" * 16, b"content").pieces()
    incoming = Incoming(b"s" * 16, 100)

    with pytest.raises(RemoteProtocolError, match="digest of piece 0"):
        incoming.add(Piece(0, b"c0ntent", first.digest))


def test_a_gap_and_too_much_content_are_refused() -> None:
    pieces = list(Outgoing.cut(b"s" * 16, bytes(BULK_CHUNK_BYTES + 1)).pieces())

    with pytest.raises(RemoteProtocolError, match="piece 1 came where 0"):
        Incoming(b"s" * 16, BULK_CHUNK_BYTES + 1).add(pieces[1])
    with pytest.raises(RemoteProtocolError, match="more than the agreed 10 bytes"):
        Incoming(b"s" * 16, 10).add(pieces[0])


def test_an_empty_piece_behind_others_is_refused_for_it_would_cost_nothing_to_send() -> None:
    (first,) = Outgoing.cut(b"s" * 16, b"content").pieces()
    incoming = Incoming(b"s" * 16, 100)
    incoming.add(first)

    with pytest.raises(RemoteProtocolError, match="empty piece"):
        incoming.add(Piece(1, b"", first.digest))


def test_a_frame_over_the_limit_is_our_own_mistake() -> None:
    piece = Chunk(b"j" * 16, 1, 0, bytes(BULK_CHUNK_BYTES), bytes(32))

    with pytest.raises(LocalProtocolError):
        CODEC.encode([piece] * 17)
