from hypothesis import given, strategies as st

from protocols.limits import BULK_CHUNK_BYTES
from protocols.output_stream import OutputStream
from protocols.pieces import Growing, Incoming, Outgoing

SALT = b"s" * 16
parts = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=8)


@given(parts)
def test_an_output_that_grew_has_the_commitment_of_one_that_was_cut(bodies: list[bytes]) -> None:
    growing = Growing(SALT)
    for body in bodies[:-1]:
        growing.add(body)

    whole = growing.complete(b"".join(bodies))

    assert whole is not None
    assert whole.cid == Outgoing.cut(SALT, b"".join(bodies)).cid
    incoming = Incoming(SALT, 1_000)
    for piece in whole.pieces():
        incoming.add(piece)
    assert incoming.content() == b"".join(bodies)


def test_what_grew_can_only_be_completed_by_what_begins_with_it() -> None:
    growing = Growing(SALT)
    growing.add(b"some")

    assert growing.complete(b"other text") is None


def test_no_piece_is_larger_than_those_of_other_outputs() -> None:
    growing = Growing(SALT)
    growing.add(b"x" * (2 * BULK_CHUNK_BYTES + 1))

    assert [len(piece.body) for piece in growing.pieces(0)] == [BULK_CHUNK_BYTES] * 2 + [1]


@given(st.lists(parts, min_size=1, max_size=4), st.data())
def test_a_client_always_ends_with_what_the_last_attempt_sent(
    attempts: list[list[bytes]], data: st.DataObject
) -> None:
    stream, seen = OutputStream(), b""
    for bodies in attempts:
        start = 0
        sent = data.draw(st.sampled_from([bodies, [seen[:3], *bodies] if seen else bodies]))
        for body in sent:
            is_anew, new = stream.add(start, body)
            start += len(body)
            seen = new if is_anew else seen + new
        final = b"".join(sent)

    assert seen.startswith(final), "what it has beyond that it had of an attempt that agreed"
