from __future__ import annotations

from collections.abc import Callable

import pytest

from peer.excerpt_commands import redaction_line
from peer.exporting import told
from protocols.cid import CID
from protocols.excerpt import Contents, Proof, Redacted, Writer, encode
from protocols.feed import Bundle, Place, SignedHeader, sign_bundle
from protocols.keys import peer_id_of
from protocols.membership import AGGREGATOR, WORKER
from protocols.record import Record
from protocols.tombstone import TOMBSTONE_KIND, Tombstone
from tests.support.excerpts import car, car_of, part_of, verdict_of
from tests.support.feeds import cid_of, record
from tests.support.home import Author
from tests.support.members import DAY_US, NOW_US, TestMesh, key_of
from tests.unit.test_tombstone import (
    AUTHOR,
    CID_OF_THING,
    MESH,
    OPERATOR,
    OUTSIDER,
    THING,
    certificate,
    tombstone,
)


def cut(*records: Record) -> Bundle:
    author = next(key for key in (AUTHOR, OPERATOR, OUTSIDER) if key.public == records[0].author)
    return sign_bundle(author, Place(1, 0, None), [each.encode() for each in records], 1)


def proof_of(bundle: Bundle) -> bytes:
    return encode(Proof(bundle.header_bytes, bundle.signature))


def file_of(
    *authority: Record,
    header: Bundle | None = None,
    redacted: CID = CID_OF_THING,
    count: int = 1,
    damage: Callable[[bytes], bytes] = lambda signature: signature,
) -> bytes:
    """A CAR file that says of a record nothing but that the first of ``authority`` had it
    erased.
    """
    header = header or cut(THING)
    said = Redacted(
        header.header_bytes, damage(header.signature), (redacted,), cid_of(authority[0])
    )
    contents = encode(Contents(redacted, len(authority), 1, 0, 0, count))
    blocks = [each.encode() for each in authority]
    blocks += [proof_of(cut(*authority)), encode(said), contents]
    return car([redacted, CID.of(contents)], *blocks)


def test_a_file_shows_that_an_author_had_its_record_erased_and_verifies() -> None:
    verdict = verdict_of(file_of(tombstone(AUTHOR, "author")))

    assert verdict.faults == []
    [(cid, found)] = verdict.redacted.items()
    assert (cid, found.signers, found.redaction.by) == (
        CID_OF_THING,
        (AUTHOR.public,),
        AUTHOR.public,
    )
    assert (found.redaction.reason, found.mesh) == ("why", None)


def test_whoever_names_somebody_elses_record_is_not_called_its_author() -> None:
    named = sign_bundle(OUTSIDER, Place(1, 0, None), [THING.encode()], 1)
    burial = tombstone(OUTSIDER, "author")
    shown = sign_bundle(OUTSIDER, Place(1, 1, named.cid), [burial.encode()], 1)
    said = Redacted(named.header_bytes, named.signature, (CID_OF_THING,), cid_of(burial))
    contents = encode(Contents(None, 1, 1, 0, 0, 1))
    blocks = [burial.encode(), proof_of(shown), encode(said), contents]

    verdict = told(verdict_of(car([CID.of(contents)], *blocks)))

    assert verdict["ok"]
    [each] = verdict["redacted"]
    assert "author" not in each
    assert each["signed_by"] == peer_id_of(OUTSIDER.public)
    line = redaction_line(each)
    assert f"a header signed by {each['signed_by']} names, by that peer" in line


def test_a_file_shows_by_which_meshs_aggregator_a_record_was_erased() -> None:
    verdict = verdict_of(
        file_of(tombstone(OPERATOR, "aggregator"), certificate(OPERATOR, AGGREGATOR))
    )

    assert verdict.faults == []
    [found] = verdict.redacted.values()
    assert (found.redaction.by, found.mesh) == (OPERATOR.public, MESH.root.public)


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        (file_of(tombstone(OUTSIDER, "author")), "is by another author"),
        (file_of(tombstone(OPERATOR, "aggregator")), "no certificate in front of it"),
        (
            file_of(tombstone(OUTSIDER, "aggregator"), certificate(OUTSIDER, WORKER)),
            "no certificate in front of it",
        ),
        (file_of(tombstone(AUTHOR, "author", CID.of(b"x"))), "or does not name it"),
        (file_of(record(AUTHOR, 5)), "is not in front of it"),
        (
            file_of(tombstone(AUTHOR, "author"), header=cut(record(AUTHOR, 9))),
            "the header beside it does not name it",
        ),
        (
            file_of(tombstone(AUTHOR, "author"), damage=lambda s: s[:-1] + bytes([s[-1] ^ 1])),
            "an invalid signature",
        ),
        (file_of(tombstone(AUTHOR, "author"), count=2), "tell of 2 redacted records; 1 are here"),
    ],
)
def test_an_erasure_that_is_not_proven_is_a_fault(file: bytes, fault: str) -> None:
    verdict = verdict_of(file)

    assert any(fault in str(each) for each in verdict.faults)


def test_a_redacted_parent_is_not_missed() -> None:
    child = Record(
        author=AUTHOR.public, nonce=b"c", kind="test", start_us=1, informed_by=(CID_OF_THING,)
    )
    burial, header = tombstone(AUTHOR, "author"), cut(THING)
    shown = cut(child, burial)
    said = Redacted(header.header_bytes, header.signature, (CID_OF_THING,), cid_of(burial))
    contents = encode(Contents(None, 2, 1, 0, 0, 1))
    blocks = [child.encode(), burial.encode(), proof_of(shown), encode(said), contents]

    verdict = verdict_of(car([CID.of(contents)], *blocks))

    # two headers over one range, made up for the test: a fork, which is no fault of the file
    assert verdict.faults == []
    assert verdict.missing == set()


def test_a_signed_header_commits_to_what_is_gone() -> None:
    whole = cut(THING, record(AUTHOR, 2))
    erased = Bundle.decode(whole.with_records((b"", whole.records[1])).encode())

    assert erased.absent == {0: CID_OF_THING}
    assert erased.cid == whole.cid
    assert SignedHeader.decode(erased.header_bytes, erased.signature).cid == whole.cid


@pytest.mark.parametrize(("days", "outside"), [(0, 0), (-3_650, 1), (3_650, 1)])
def test_an_author_must_have_been_a_member_when_it_signed_what_is_redacted(
    days: int, outside: int
) -> None:
    mesh, key = TestMesh(), key_of(1)
    old, new = Author(key, epoch=1), Author(key, epoch=2)
    gone = old.add("tick")
    header = old.cut(NOW_US + days * DAY_US)
    new.show(mesh.membership(key))
    said = Tombstone(records=(gone,), reason="why", authority="author")
    burial = new.add(TOMBSTONE_KIND, attributes=said.to_attributes())
    writer = Writer()
    sections = list(writer.part(part_of(new.cut(NOW_US))))
    signed = SignedHeader(header.header_bytes, header.signature, header.header)
    sections.append(writer.redact(signed, gone, burial))
    last = list(writer.end(set()))
    file = writer.head(last[-1][1]) + b"".join([*sections, *(each for each, _ in last)])

    verdict = verdict_of(file, mesh=mesh.root.public)

    assert verdict.faults == []
    [author] = verdict.members
    assert (author.records, author.outside) == (3, outside)
    assert verdict.is_good == (outside == 0)


def test_a_file_that_nobody_signed_shows_no_member_of_a_mesh() -> None:
    empty = car_of([])

    assert verdict_of(empty).is_good
    verdict = verdict_of(empty, mesh=TestMesh().root.public)
    assert not verdict.is_good
    assert "shows no member" in str(verdict.faults[0])
