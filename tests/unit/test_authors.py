"""Whether the authors of an excerpt were members when they signed, from the file alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from protocols import authors
from protocols.authors import Author
from protocols.cid import CID
from protocols.membership import CERTIFICATE_US, TOLERANCE_US, Certificate, Membership
from protocols.revocation import FOREVER_US, signed_list
from tests.support.excerpts import car_of, part_of, verdict_of
from tests.support.home import Author as Feed
from tests.support.members import DAY_US, NOW_US, TestMesh, key_of

MESH, OTHER = TestMesh(), TestMesh(key_of(2_000), key_of(2_001))
ROOT = MESH.root.public
ONE = key_of(1)


def feed(*shown: Membership, ticks: int = 2, at_us: int = NOW_US) -> bytes:
    """A file of one author, who shows these certificates in front of what it signs."""
    author = Feed(ONE)
    for member in shown:
        author.show(member)
    for _ in range(ticks):
        author.add("tick")
    return car_of([part_of(author.cut(at_us))])


def judged(file: bytes, mesh: bytes | None = ROOT) -> Author:
    [author] = verdict_of(file, mesh=mesh).members
    return author


def is_good(file: bytes, mesh: bytes | None = ROOT) -> bool:
    return verdict_of(file, mesh=mesh).is_good


def tampered(member: Membership) -> Membership:
    """With a role more than its issuer signed."""
    certificate = msgspec.structs.replace(member.certificate, roles=("aggregator", "worker"))
    return Membership(certificate, member.issuer_certificate)


def list_of(version: int = 1, **moments: int) -> bytes:
    numbers = {"one": ONE.public, "admitter": MESH.admitter.public, "two": key_of(2).public}
    voided = {numbers[name]: until for name, until in moments.items()}
    return signed_list(MESH.root, voided, version, NOW_US).encode()


def test_an_author_that_shows_its_certificate_is_a_member_up_to_the_root() -> None:
    file = feed(MESH.membership(ONE, "worker", "submitter"))

    author = judged(file)

    assert is_good(file)
    assert author.state == "member"
    assert author.mesh == ROOT
    assert author.roles == ("submitter", "worker")
    assert (author.from_us, author.to_us) == (NOW_US, NOW_US + CERTIFICATE_US)
    assert author.issuers == (MESH.admitter.public,)
    assert (author.records, author.outside, author.behind) == (3, 0, 2)
    assert verdict_of(file).certificates == 1


def test_without_a_mesh_each_author_is_judged_by_what_it_shows_and_nothing_is_asked() -> None:
    verdict = verdict_of(feed(OTHER.membership(ONE)))

    assert verdict.is_good
    assert [(each.state, each.mesh) for each in verdict.members] == [("member", OTHER.root.public)]


def test_an_author_that_shows_none_is_unknown() -> None:
    assert judged(feed()).state == judged(feed(), None).state == "unknown"
    assert not is_good(feed())
    assert is_good(feed(), None)


def test_a_certificate_of_another_mesh_is_foreign_and_its_mesh_is_named() -> None:
    file = feed(OTHER.membership(ONE))

    assert (judged(file).state, judged(file).mesh) == ("foreign", OTHER.root.public)
    assert OTHER.root.peer_id in judged(file).why
    assert not is_good(file)


@pytest.mark.parametrize("mesh", [ROOT, None, OTHER.root.public])
def test_a_tampered_certificate_is_invalid_whatever_is_asked(mesh: bytes | None) -> None:
    file = feed(tampered(MESH.membership(ONE)))

    assert judged(file, mesh).state == "invalid"
    assert "signature is not its issuer's" in judged(file, mesh).why
    assert is_good(file, mesh) == (mesh is None), "it is what its author signed, all the same"


def test_what_is_no_certificate_and_anothers_certificate_are_invalid() -> None:
    author = Feed(ONE)
    author.add_block("member.certificate", certificate=b"?", issuer_certificate=b"?")
    junk = car_of([part_of(author.cut())])

    assert judged(junk).state == "invalid"
    assert judged(feed(MESH.membership(key_of(2)))).why == "a feed shows another peer's certificate"


def test_a_valid_certificate_beside_an_invalid_one_counts() -> None:
    member = MESH.membership(ONE)

    assert judged(feed(tampered(member), member)).state == "member"


def test_an_issuer_that_is_no_admitter_makes_nobody_a_member() -> None:
    worker = TestMesh(MESH.root, MESH.root).membership(key_of(5), "worker").certificate
    forged = TestMesh(MESH.root, key_of(5)).membership(ONE).certificate

    author = judged(feed(Membership(forged, worker)))

    assert (author.state, "no admitter" in author.why) == ("invalid", True)


def test_what_was_signed_after_a_certificate_ended_is_outside() -> None:
    ended_us = NOW_US + CERTIFICATE_US + TOLERANCE_US
    member = MESH.membership(ONE)

    author = judged(feed(member, at_us=ended_us + 1))

    assert judged(feed(member, at_us=ended_us)).state == "member"
    assert (author.state, author.records, author.outside) == ("outside", 3, 3)
    assert author.outside_us == ended_us + 1
    assert not is_good(feed(member, at_us=ended_us + 1))


def test_a_renewed_certificate_goes_on_where_the_first_one_ends() -> None:
    later_us = NOW_US + 20 * DAY_US
    renewing = TestMesh(MESH.root, MESH.root)  # the root itself admits for as long as it signs
    chains = [
        Membership(each.certificate, each.certificate)
        for each in (renewing.membership(ONE), renewing.membership(ONE, now_us=later_us))
    ]

    author = judged(feed(*chains, at_us=NOW_US + 40 * DAY_US))

    assert author.state == "member"
    assert author.to_us == later_us + CERTIFICATE_US
    assert author.issuers == (ROOT,)


def test_order_beats_the_clock_that_was_behind() -> None:
    """What stands behind a certificate was signed after it was issued, whatever the header says."""
    early_us, author = NOW_US - 5 * DAY_US, Feed(ONE)
    author.add("tick")
    author.show(MESH.membership(ONE))
    author.add("tick")
    found = judged(car_of([part_of(author.cut(early_us))]))

    assert (found.state, found.outside, found.behind) == ("outside", 2, 1)
    assert found.outside_us == early_us


def test_a_certificate_in_a_later_bundle_reaches_back_by_its_time_only() -> None:
    author = Feed(ONE)
    author.add("tick")
    first = author.cut()
    author.show(MESH.membership(ONE))
    file = car_of([part_of(first), part_of(author.cut(NOW_US + 1))])

    assert (judged(file).state, judged(file).behind) == ("member", 0)


def test_a_certificate_by_itself_proves_itself() -> None:
    author = Feed(ONE)
    author.add("tick")
    parts = [part_of(author.cut())]
    file = car_of(parts, members=[MESH.membership(ONE)])
    bad = verdict_of(car_of(parts, members=[tampered(MESH.membership(ONE))]))

    assert (judged(file).state, judged(file).records) == ("member", 1)
    assert is_good(file)
    assert "the certificate is invalid" in str(bad.faults[0])
    assert bad.members[0].state == "invalid"


def test_a_revoked_author_was_never_a_member() -> None:
    author = Feed(ONE)
    author.show(MESH.membership(ONE))
    parts = [part_of(author.cut())]

    revoked = judged(car_of(parts, revoked=[list_of(7, one=FOREVER_US)]))
    admitter = judged(car_of(parts, revoked=[list_of(admitter=FOREVER_US)]))
    somebody = judged(car_of(parts, revoked=[list_of(two=FOREVER_US)]))

    assert (revoked.state, admitter.state, somebody.state) == ("revoked", "revoked", "member")
    assert revoked.why.startswith(f"the membership of {ONE.peer_id} was revoked")
    assert revoked.why.endswith("version 7 of the mesh's list")
    assert MESH.admitter.peer_id in admitter.why


def test_a_peer_that_left_was_a_member_until_then() -> None:
    author = Feed(ONE)
    author.show(MESH.membership(ONE))
    before = author.cut()
    author.add("tick")
    after = author.cut(NOW_US + 2 * DAY_US)
    left = [list_of(one=NOW_US + DAY_US)]

    found = judged(car_of([part_of(before), part_of(after)], revoked=left))

    assert judged(car_of([part_of(before)], revoked=left)).state == "member"
    assert (found.state, found.outside) == ("outside", 1)
    assert found.to_us == NOW_US + DAY_US


def test_the_newest_list_holds_and_a_forged_one_is_a_fault() -> None:
    author = Feed(ONE)
    author.show(MESH.membership(ONE))
    parts = [part_of(author.cut())]
    both = [list_of(2, one=FOREVER_US), list_of(1)]
    forged = bytearray(list_of(2))
    forged[-1] ^= 1

    verdict = verdict_of(car_of(parts, revoked=[bytes(forged)]))

    assert judged(car_of(parts, revoked=both)).state == "revoked"
    assert judged(car_of(parts, revoked=both[::-1])).state == "revoked"
    assert "not signed by this mesh's root" in str(verdict.faults[0])


def test_a_certificate_that_was_taken_out_of_the_file_is_missed() -> None:
    author = Feed(ONE)
    author.add("tick")
    parts = [part_of(author.cut())]
    with_one = car_of(parts, members=[MESH.membership(ONE)], revoked=[list_of()])
    head, _, rest = with_one.partition(b"member/1")
    start, end = head.rindex(b"\x01\x71\x12\x20"), rest.index(b"\x01\x71\x12\x20")
    file = with_one[: start - 2] + rest[end - 2 :]

    faults = [str(fault) for fault in verdict_of(file).faults]

    assert faults == ["the contents tell of 1 members; 0 are here"]


def test_any_flipped_bit_is_found_where_certificates_are_too() -> None:
    author, rng = Feed(ONE), random.Random(20261127)
    author.show(MESH.membership(ONE))
    file = car_of(
        [part_of(author.cut())],
        members=[MESH.membership(ONE, "worker")],
        revoked=[list_of(two=FOREVER_US)],
    )

    assert is_good(file)
    for place in range(0, len(file), 3):
        flipped = bytearray(file)
        flipped[place] ^= 1 << rng.randrange(8)
        assert not is_good(bytes(flipped)), place


def test_more_than_a_reader_looks_at_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authors, "MAX_SHOWN_CERTIFICATES", 1)
    monkeypatch.setattr(authors, "MAX_SHOWN_REVOCATIONS", 1)
    lists = [signed_list(mesh.root, {}, 1, NOW_US).encode() for mesh in (MESH, OTHER)]
    author = Feed(ONE)
    author.show(MESH.membership(ONE))

    verdict = verdict_of(car_of([part_of(author.cut())], revoked=lists))

    assert judged(feed(OTHER.membership(ONE), MESH.membership(ONE))).state == "foreign"
    assert "revocation lists of over 1 meshes" in str(verdict.faults[0])


def test_every_author_is_judged_in_one_order() -> None:
    feeds = [Feed(key_of(number)) for number in (3, 1, 2)]
    feeds[0].show(MESH.membership(key_of(3)))
    for each in feeds:
        each.add("tick")
    members = verdict_of(car_of([part_of(each.cut()) for each in feeds])).members

    assert [each.peer for each in members] == sorted(each.key.public for each in feeds)
    assert states(members) == {3: "member", 1: "unknown", 2: "unknown"}


def states(members: Sequence[Author]) -> dict[int, str]:
    numbers = {key_of(number).public: number for number in (1, 2, 3)}
    return {numbers[each.peer]: each.state for each in members}


def test_a_certificate_names_its_block() -> None:
    member = MESH.membership(ONE)
    author = Feed(ONE)

    assert author.show(member) == CID.of(author.records[0].encode())
    shown = author.records[0].attributes["certificate"]
    assert Certificate.decode(shown) == member.certificate
