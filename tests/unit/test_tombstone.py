from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, strategies as st

from protocols.cid import CID
from protocols.earliest import Dated, Earliest
from protocols.errors import RemoteProtocolError
from protocols.keys import SigningKey
from protocols.limits import MAX_REDACTIONS_OF_AUTHOR, MAX_TOMBSTONE_RECORDS
from protocols.membership import AGGREGATOR, WORKER
from protocols.record import Record, kind_of
from protocols.roster import CERTIFICATE_KIND
from protocols.tombstone import TOMBSTONE_KIND, Authority, Redactions, Tombstone
from tests.support.feeds import cid_of, record
from tests.support.members import TestMesh, key_of

MESH = TestMesh()
AUTHOR, OPERATOR, OUTSIDER = key_of(1), key_of(2), key_of(3)
THING = record(AUTHOR, 1)
CID_OF_THING = cid_of(THING)


def tombstone(
    by: SigningKey, authority: Authority, *cids: CID, number: int = 0, at_us: int = 1
) -> Record:
    content = Tombstone(records=cids or (CID_OF_THING,), reason="why", authority=authority)
    return Record(
        author=by.public,
        nonce=bytes([number]),
        kind=TOMBSTONE_KIND,
        start_us=at_us,
        attributes=content.to_attributes(),
    )


def certificate(of: SigningKey, *roles: str) -> Record:
    member = MESH.membership(of, *roles)
    attributes = {
        "certificate": member.certificate.encode(),
        "issuer_certificate": member.issuer_certificate.encode(),
    }
    return Record(
        author=of.public, nonce=b"", kind=CERTIFICATE_KIND, start_us=0, attributes=attributes
    )


def redactions(records: Iterable[Record]) -> Redactions:
    taken = Redactions(MESH.root.public)
    for each in records:
        taken.take(each.encode(), each.author)
    return taken


def is_redacted(*records: Record) -> bool:
    return redactions(records).of(CID_OF_THING, AUTHOR.public) is not None


def test_an_author_redacts_its_own_record() -> None:
    assert is_redacted(tombstone(AUTHOR, "author"))


def test_an_aggregator_that_shows_its_role_redacts_any_record() -> None:
    assert is_redacted(tombstone(OPERATOR, "aggregator"), certificate(OPERATOR, AGGREGATOR))


@pytest.mark.parametrize(
    "records",
    [
        (tombstone(OUTSIDER, "aggregator"), certificate(OUTSIDER, WORKER)),
        (tombstone(OPERATOR, "aggregator"),),
        (tombstone(AUTHOR, "aggregator"),),
        (tombstone(OUTSIDER, "aggregator"), certificate(OPERATOR, AGGREGATOR)),
    ],
)
def test_whoever_lacks_the_authority_redacts_nothing_and_is_counted(
    records: tuple[Record, ...],
) -> None:
    taken = redactions(records)

    assert taken.of(CID_OF_THING, AUTHOR.public) is None
    assert taken.without_effect == 1


def test_an_author_redacts_nobody_elses_record() -> None:
    assert not is_redacted(tombstone(OUTSIDER, "author"))


def test_an_authors_tombstone_counts_once_its_own_feed_is_found_to_name_the_record() -> None:
    taken = redactions([tombstone(OUTSIDER, "author")])
    taken.found(AUTHOR.public, [CID_OF_THING])
    before = taken.of(CID_OF_THING), list(taken.named()), taken.without_effect
    taken.found(OUTSIDER.public, [CID_OF_THING])

    assert before == (None, [], 1)
    assert taken.of(CID_OF_THING) == taken.of(CID_OF_THING, OUTSIDER.public) is not None
    assert (list(taken.named()), taken.without_effect) == ([CID_OF_THING], 0)


@pytest.mark.parametrize("is_found_first", [True, False])
@pytest.mark.parametrize(
    ("authority", "where", "left"),
    [("author", AUTHOR, 0), ("author", OUTSIDER, 1), ("aggregator", OUTSIDER, 0)],
)
def test_what_is_redacted_and_not_here_is_counted_until_it_is(
    is_found_first: bool, authority: Authority, where: SigningKey, left: int
) -> None:
    taken, elsewhere = redactions([]), CID.of(b"elsewhere")
    named = tombstone(AUTHOR, authority, CID_OF_THING, elsewhere)
    if is_found_first:
        taken.found(where.public, [CID_OF_THING])
    for _ in range(2):
        taken.take(named.encode(), AUTHOR.public)
        taken.found(where.public, [CID_OF_THING])

    assert taken.open_count == 1 + left


NUMBERED = [CID.of(bytes([number])) for number in range(12)]
MANY = [
    *(tombstone(AUTHOR, "author", *NUMBERED[n : n + 2], number=n, at_us=20 - n) for n in range(9)),
    *(tombstone(OPERATOR, "aggregator", each, number=100 + n) for n, each in enumerate(NUMBERED)),
    *(tombstone(OUTSIDER, "aggregator", each, number=200 + n) for n, each in enumerate(NUMBERED)),
    certificate(OPERATOR, AGGREGATOR),
]


@given(st.permutations(MANY), st.integers(0, len(MANY)))
def test_which_of_too_many_redactions_count_does_not_depend_on_their_order(
    order: list[Record], again: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protocols.tombstone.MAX_REDACTIONS_OF_AUTHOR", 5)
        taken = redactions([*order, *order[:again]])
        for author in taken.take_recalled():
            for each in MANY:
                if each.author == author:
                    taken.take(each.encode(), author)

    counted = [cid for cid in NUMBERED if taken.of(cid, AUTHOR.public)]
    by_author = [cid for cid in NUMBERED if taken.redactors_of(cid) == (True, {AUTHOR.public})]
    assert counted == NUMBERED, "the operator's all count"
    assert by_author == NUMBERED[7:10], "the author's two earliest, of two records each"
    assert taken.excessive == sorted([AUTHOR.public, OUTSIDER.public])


@given(st.permutations(range(6)), st.integers(0, 6))
def test_no_more_names_are_remembered_than_the_bound(order: list[int], bound: int) -> None:
    told = [Dated(n, CID_OF_THING, tuple(NUMBERED[: n + 1]), "author") for n in range(6)]
    earliest, passed_over = Earliest(bound), list[Dated]()
    for number in order:
        passed_over += earliest.add(told[number])

    fitting = [n for n in range(6) if sum(range(1, n + 2)) <= bound]
    assert earliest.kept == [told[n] for n in fitting]
    assert sorted(passed_over) == told[len(fitting) :]
    assert (earliest.named, earliest.is_cut) == (sum(n + 1 for n in fitting), len(fitting) < 6)


@given(st.permutations(range(6)), st.booleans())
def test_whoever_shows_no_role_has_one_bound_for_all_that_it_says(
    order: list[int], is_shown: bool
) -> None:
    """Once it shows one, what it said as an aggregator takes no room of what it says as author."""
    records = [
        *(tombstone(AUTHOR, "aggregator", each, number=n) for n, each in enumerate(NUMBERED[:3])),
        *(tombstone(AUTHOR, "author", each, number=9, at_us=2) for each in NUMBERED[3:6]),
    ]
    shown = [certificate(AUTHOR, AGGREGATOR)] if is_shown else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protocols.tombstone.MAX_REDACTIONS_OF_AUTHOR", 4)
        taken = redactions([*(records[number] for number in order), *shown])
        if taken.take_recalled():
            for each in records:
                taken.take(each.encode(), AUTHOR.public)
        room = taken.room_of(AUTHOR.public, "author")

    counted = [cid for cid in NUMBERED if taken.of(cid, AUTHOR.public) is not None]
    first = min(
        NUMBERED[3:6], key=lambda cid: cid_of(tombstone(AUTHOR, "author", cid, number=9, at_us=2))
    )
    assert counted == (NUMBERED[:6] if is_shown else [first])
    assert len(taken) == (6 if is_shown else 4)
    assert room == (1 if is_shown else 0)
    assert taken.excessive == ([] if is_shown else [AUTHOR.public])


@pytest.mark.parametrize("authority", ["author", "aggregator"])
def test_an_author_is_told_how_many_records_more_it_may_redact(authority: Authority) -> None:
    few = redactions([tombstone(AUTHOR, authority)])
    shown = redactions([tombstone(AUTHOR, authority), certificate(AUTHOR, AGGREGATOR)])

    assert few.room_of(AUTHOR.public, authority) == MAX_REDACTIONS_OF_AUTHOR - 1
    bound = None if authority == "aggregator" else MAX_REDACTIONS_OF_AUTHOR - 1
    assert shown.room_of(AUTHOR.public, authority) == bound


def test_a_certificate_of_another_mesh_gives_no_authority() -> None:
    shown = certificate(OPERATOR, AGGREGATOR).encode()
    taken = Redactions(key_of(9).public)
    taken.take(tombstone(OPERATOR, "aggregator").encode(), OPERATOR.public)
    taken.take(shown, OPERATOR.public)

    assert taken.of(CID_OF_THING) is None


def test_what_rules_others_answers_is_never_erased() -> None:
    shown = certificate(AUTHOR, AGGREGATOR)
    taken = redactions([tombstone(AUTHOR, "author", cid_of(shown), CID_OF_THING)])

    assert taken.applies(THING.encode(), CID_OF_THING, AUTHOR.public)
    assert not taken.applies(shown.encode(), cid_of(shown), AUTHOR.public)


def test_a_malformed_tombstone_is_a_record_of_no_effect() -> None:
    bad = Record(
        author=AUTHOR.public, nonce=b"", kind=TOMBSTONE_KIND, start_us=0, attributes={"records": 1}
    )

    assert not is_redacted(bad)


def test_a_tombstone_names_no_more_than_the_limit() -> None:
    named = (CID.of(b"%d" % number) for number in range(MAX_TOMBSTONE_RECORDS))
    content = tombstone(AUTHOR, "author", CID_OF_THING, *named)

    with pytest.raises(RemoteProtocolError):
        Tombstone.from_attributes(content.attributes)


def test_a_tombstone_names_a_record_once() -> None:
    attributes = tombstone(AUTHOR, "author", CID_OF_THING).attributes
    twice = {**attributes, "records": [CID_OF_THING, CID_OF_THING]}

    with pytest.raises(RemoteProtocolError, match="once"):
        Tombstone.from_attributes(twice)


@given(st.permutations(range(7)), st.integers(0, 7))
def test_any_order_and_repetition_gives_one_redaction(order: list[int], again: int) -> None:
    records = [
        tombstone(AUTHOR, "author", number=1),
        tombstone(AUTHOR, "author", number=2),
        tombstone(OPERATOR, "aggregator", number=3),
        tombstone(OUTSIDER, "aggregator", number=4),
        certificate(OPERATOR, AGGREGATOR),
        certificate(OPERATOR, AGGREGATOR, WORKER),
        certificate(OUTSIDER, WORKER),
    ]
    shuffled = [records[index] for index in order]

    taken = redactions([*shuffled, *shuffled[:again]])

    expected = redactions(records)
    for feed in (AUTHOR.public, OUTSIDER.public, None):
        assert taken.of(CID_OF_THING, feed) == expected.of(CID_OF_THING, feed)


@given(st.permutations([*MANY, *NUMBERED]), st.integers(0, len(MANY)))
def test_what_is_counted_does_not_depend_on_the_order(
    order: list[Record | CID], again: int
) -> None:
    def counted(parts: Iterable[Record | CID]) -> list[object]:
        taken = redactions([])
        for part in parts:
            if isinstance(part, Record):
                taken.take(part.encode(), part.author)
            else:
                taken.found(AUTHOR.public if NUMBERED.index(part) % 2 else OUTSIDER.public, [part])
        for _ in taken.take_recalled():
            for each in MANY:
                taken.take(each.encode(), each.author)
        assert set(taken.named()) == {cid for cid in NUMBERED if taken.of(cid) is not None}
        return [taken.open_count, taken.without_effect, sorted(taken.named())]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protocols.tombstone.MAX_REDACTIONS_OF_AUTHOR", 5)

        assert counted([*order, *order[:again]]) == counted([*NUMBERED, *MANY])


@given(st.text("k.é", min_size=1, max_size=64), st.binary(max_size=32))
def test_a_records_kind_is_read_without_decoding_it(kind: str, nonce: bytes) -> None:
    encoded = Record(author=AUTHOR.public, nonce=nonce, kind=kind, start_us=0).encode()

    assert kind_of(encoded) == kind
