from __future__ import annotations

import random
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from aggregator.decisions import (
    DECISION_KIND,
    Decided,
    Decision,
    Filed,
    Intent,
    from_attributes,
    kind_of,
    next_revision,
    to_attributes,
)
from aggregator.faults import Faults, Occurrence
from aggregator.groups import Group, group, release_key, short
from protocols import dagcbor
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_GROUP_TEMPLATES
from tests.support.reports import PEERS, START_US, a_report, occurrence, occurrences

WORDS = ("alpha", "beta", "gamma", "delta", "eps", "zeta", "eta", "theta", "iota", "kappa")


def one_place(templates: int, function: str = "Worker.run") -> list[Occurrence]:
    """One report of each of so many messages, all raised at one place."""
    return [
        occurrence(a_report(f"it broke at {word}", function=function, time_us=START_US + n))
        for n, word in enumerate(WORDS[:templates])
    ]


def fine(each: Occurrence) -> str:
    return each.report.fingerprint


def bucket(each: Occurrence) -> str:
    return short(each.report.coarse)


def decide(action: str, of: str, revision: int = 1, **more: object) -> Decided:
    fields = {"action": action, "group": of, "revision": revision, "time_us": START_US, **more}
    decision = msgspec.convert(fields, Decision)
    return Decided(decision, CID.of(dagcbor.encode(to_attributes(decision))))


def filed(of: str, number: int = 1) -> Filed:
    return Filed(group=of, tracker="memory", number=number, where="", time_us=START_US)


def members(groups: list[Group]) -> dict[str, set[str]]:
    return {each.id: set(each.fingerprints) for each in groups}


# What a group shows


def test_a_group_sums_up_its_reports() -> None:
    reports = occurrences("Worker.run", count=5, peers=2)

    [only] = group(reports)

    assert only.title == "ValueError: it broke"
    assert only.culprit == "node.worker in Worker.run"
    assert only.count == 5
    assert only.peers == tuple(sorted(PEERS[:2]))
    assert (only.first_seen_us, only.last_seen_us) == (START_US, START_US + 4)
    assert only.releases == ("0.1.0",)
    assert only.status == "open"
    assert only.issue is None
    assert only.sample == reports[0]
    assert only.id == short(reports[0].report.coarse)


def test_a_count_stands_for_as_many_reports() -> None:
    counted = msgspec.structs.replace(a_report(time_us=START_US + 9), count=995)

    [only] = group([*occurrences("Worker.run", count=5), occurrence(counted)])

    assert only.count == 1_000


def test_one_record_counts_once_however_often_it_arrives() -> None:
    [only] = group(occurrences("Worker.run") * 4)

    assert only.count == 3


def test_a_report_with_a_forged_fingerprint_changes_nothing_but_its_peers_score() -> None:
    forged = msgspec.structs.replace(a_report(), fingerprint="0" * 64)
    faults = Faults()

    assert not faults.add(occurrence(forged, PEERS[1]))

    assert faults.by_fingerprint == {}
    assert faults.ignored[PEERS[1]] == 1


# Which reports are one group


def test_a_few_messages_at_one_place_are_one_group() -> None:
    [only] = group(one_place(MAX_GROUP_TEMPLATES))

    assert len(only.fingerprints) == MAX_GROUP_TEMPLATES


def test_many_messages_at_one_place_are_as_many_groups() -> None:
    reports = one_place(MAX_GROUP_TEMPLATES + 1)

    assert members(group(reports)) == {short(fine(each)): {fine(each)} for each in reports}


def test_a_filed_group_is_never_split_by_a_rule() -> None:
    reports = one_place(MAX_GROUP_TEMPLATES + 2)

    [only] = group(reports, filed=[filed(bucket(reports[0]), 7)])

    assert only.issue == 7
    assert len(only.fingerprints) == MAX_GROUP_TEMPLATES + 2


def test_a_filed_variant_stays_apart_when_its_bucket_is_small() -> None:
    reports = one_place(3)

    groups = group(reports, filed=[filed(short(fine(reports[0])), 7)])

    assert members(groups) == {
        short(fine(reports[0])): {fine(reports[0])},
        bucket(reports[0]): {fine(reports[1]), fine(reports[2])},
    }


def test_a_group_that_a_person_named_is_never_split_by_a_rule() -> None:
    reports = one_place(MAX_GROUP_TEMPLATES + 2)

    [only] = group(reports, [decide("ignore", bucket(reports[0]))])

    assert only.status == "ignored"


# What people decide


def test_merged_groups_are_one_under_the_name_a_person_chose() -> None:
    a, b = occurrences("a"), occurrences("b")

    [only] = group(a + b, [decide("merge", bucket(a[0]), into=bucket(b[0]))])

    assert only.id == bucket(b[0])
    assert only.count == 6
    assert set(only.fingerprints) == {fine(a[0]), fine(b[0])}


def test_later_reports_of_a_merged_group_follow_it() -> None:
    a, b = occurrences("a"), occurrences("b")
    later = occurrence(a_report("it broke in another way", function="a"))

    [only] = group([*a, *b, later], [decide("merge", bucket(a[0]), into=bucket(b[0]))])

    assert fine(later) in only.fingerprints


def test_merging_back_and_forth_makes_no_circle() -> None:
    a, b, c = (occurrences(name) for name in "abc")
    names = [bucket(each[0]) for each in (a, b, c)]
    merges = [
        decide("merge", names[0], 1, into=names[1]),
        decide("merge", names[1], 2, into=names[0]),
        decide("merge", names[2], 3, into=names[0]),
        decide("merge", names[1], 4, into=names[2]),
    ]

    [only] = group(a + b + c, merges)

    assert only.count == 9


def test_a_split_fingerprint_has_its_own_group_until_a_person_merges_it_again() -> None:
    reports = one_place(3)
    away = decide("split", bucket(reports[0]), 1, fingerprints=(fine(reports[0]),))
    back = decide("merge", short(fine(reports[0])), 2, into=bucket(reports[1]))
    away_again = decide("split", bucket(reports[0]), 3, fingerprints=(fine(reports[0]),))

    assert len(group(reports, [away])) == 2
    assert len(group(reports, [away, back])) == 1
    assert len(group(reports, [away, back, away_again])) == 2


def test_the_survivor_of_a_merge_keeps_its_issue_and_names_the_other_a_duplicate() -> None:
    a, b = occurrences("a"), occurrences("b")
    issues = [filed(bucket(a[0]), 1), filed(bucket(b[0]), 2)]

    [only] = group(a + b, [decide("merge", bucket(a[0]), into=bucket(b[0]))], issues)

    assert only.issue == 2
    assert [each.number for each in only.duplicates_in("memory")] == [1]


def test_the_survivor_of_a_merge_keeps_its_status() -> None:
    a, b = occurrences("a"), occurrences("b")
    ignored = decide("ignore", bucket(a[0]), 1)

    [into_open] = group(a + b, [ignored, decide("merge", bucket(a[0]), 2, into=bucket(b[0]))])
    [into_ignored] = group(a + b, [ignored, decide("merge", bucket(b[0]), 2, into=bucket(a[0]))])

    assert into_open.status == "open"
    assert into_ignored.status == "ignored"


# Resolved, and back


def of_release(release: str, time_us: int = START_US) -> Occurrence:
    return occurrence(a_report(release=release, time_us=time_us))


@pytest.mark.parametrize(
    ("seen", "status"),
    [("0.1.0", "resolved"), ("0.0.9", "resolved"), ("0.1.1", "regressed"), ("0.10.0", "regressed")],
)
def test_only_a_newer_release_makes_a_regression(seen: str, status: str) -> None:
    reports = [of_release("0.1.0"), of_release(seen, START_US + 10)]
    resolved = decide("resolve", bucket(reports[0]), releases=("0.0.8", "0.1.0"))

    [only] = group(reports, [resolved])

    assert only.status == status


def test_without_releases_any_later_report_makes_a_regression() -> None:
    before, after = of_release("", START_US), of_release("", START_US + 1)
    resolved = decide("resolve", bucket(before))

    assert [each.status for each in group([before], [resolved])] == ["resolved"]
    assert [each.status for each in group([before, after], [resolved])] == ["regressed"]


def test_an_ignored_group_is_never_back() -> None:
    reports = [of_release("0.1.0"), of_release("9.9.9", START_US + 10)]

    [only] = group(reports, [decide("ignore", bucket(reports[0]))])

    assert only.status == "ignored"


def test_a_regression_can_be_resolved_again() -> None:
    reports = [of_release("0.1.0"), of_release("0.2.0")]
    decisions = [
        decide("resolve", bucket(reports[0]), 1, releases=("0.1.0",)),
        decide("resolve", bucket(reports[0]), 2, releases=("0.1.0", "0.2.0")),
    ]

    assert [each.status for each in group(reports, decisions)] == ["resolved"]


def test_releases_are_ordered_by_their_numbers() -> None:
    ordered = ["", "0.9", "0.10rc1", "0.10", "0.10.1", "1.0.dev2", "1.0.dev10", "1.0", "2"]

    assert all(release_key(a) < release_key(b) for a, b in pairwise(ordered))


# Order does not matter

functions = st.sampled_from("abc")
reports_of_it = st.builds(
    lambda function, word, peer, n, release: occurrence(
        a_report(f"broke at {word}", function=function, time_us=START_US + n, release=release),
        PEERS[peer],
    ),
    functions,
    st.sampled_from(WORDS),
    st.integers(0, 2),
    st.integers(0, 5),
    st.sampled_from(["", "0.1.0", "0.2.0"]),
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Occurrence], list[Decided], list[Filed]]:
    reports = draw(st.lists(reports_of_it, min_size=1, max_size=40))
    names = sorted({bucket(each) for each in reports} | {short(fine(each)) for each in reports})
    name = st.sampled_from(names)
    decisions = draw(
        st.lists(
            st.one_of(
                st.builds(lambda g, r: decide("ignore", g, r), name, st.integers(1, 9)),
                st.builds(lambda g, r: decide("resolve", g, r), name, st.integers(1, 9)),
                st.builds(
                    lambda g, i, r: decide("merge", g, r, into=i), name, name, st.integers(1, 9)
                ),
                st.builds(
                    lambda g, f, r: decide("split", g, r, fingerprints=(f,)),
                    name,
                    st.sampled_from([fine(each) for each in reports]),
                    st.integers(1, 9),
                ),
            ),
            max_size=6,
        )
    )
    issues = [filed(each, n + 1) for n, each in enumerate(draw(st.lists(name, max_size=4)))]
    return reports, decisions, issues


@settings(max_examples=150, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_groups_depend_on_what_is_known_and_not_on_the_order_of_arrival(
    history: tuple[list[Occurrence], list[Decided], list[Filed]], rng: random.Random
) -> None:
    reports, decisions, issues = history
    shuffled = [rng.sample(each, len(each)) for each in history]

    assert group(*shuffled) == group(reports, decisions, issues)
    fingerprints = [name for each in group(*history) for name in each.fingerprints]
    assert sorted(fingerprints) == sorted({fine(each) for each in reports})


def test_thousands_of_releases_and_jobs_do_not_grow_a_group_or_depend_on_order() -> None:
    reports = [of_release(f"0.{n}.0", START_US + n) for n in range(300)]

    [forwards] = group(reports)
    [backwards] = group(reports[::-1])

    assert forwards == backwards
    assert forwards.releases[0] == "0.299.0"
    assert len(forwards.releases) == 50


# As records


def test_statements_survive_their_records() -> None:
    merge = decide("merge", "0" * 12, 3, into="1" * 12).decision
    intent = Intent(group="0" * 12, tracker="folder", time_us=1)
    issue = Filed(group="0" * 12, tracker="folder", number=1, where="issues/0001-x.md", time_us=2)

    for statement in (merge, intent, issue):
        attributes = dagcbor.decode(dagcbor.encode(to_attributes(statement)))
        assert from_attributes(kind_of(statement), attributes) == statement


@pytest.mark.parametrize(
    "change",
    [
        {"action": "delete"},
        {"group": "../x"},
        {"revision": 0},
        {"fingerprints": ["0"]},
        {"into": 1},
    ],
)
def test_an_invalid_decision_is_refused(change: dict[str, object]) -> None:
    attributes = to_attributes(decide("resolve", "0" * 12).decision)

    with pytest.raises(RemoteProtocolError):
        from_attributes(DECISION_KIND, {**attributes, **change})


def test_a_decision_counts_after_all_that_its_maker_had_seen() -> None:
    seen = [decide("ignore", "0" * 12, 4), decide("resolve", "0" * 12, 9)]

    assert next_revision(seen) == 10
    assert next_revision([]) == 1
