"""Who is off when several peers computed the same."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, strategies as st

from node.profile import Profile, profile_of, unlike
from node.runner.kinds import Difference, kind_named
from node.runner.kinds.noop import compare
from node.verdict import AGREED, DIFFERS, UNVERIFIED, Ballot, Run, Verification
from protocols.cid import CID

PROFILE: Profile = {"model": "m", "precision": "fp32", "engine": "e", "threads": 2, "device": "cpu"}


def run_of(number: int, output: bytes, profile: Profile = PROFILE, **declared: float) -> Run:
    return Run(f"peer{number}", output, CID.of(output), CID.of(b"run"), profile, declared)


def verified(outputs: list[bytes], wanted: int | None = None) -> Verification:
    first, *others = [run_of(number, output) for number, output in enumerate(outputs)]
    ballot = Ballot(compare, {}, first)
    peers = tuple(ballot.add(other) for other in others)
    return ballot.outcome(len(others) if wanted is None else wanted, peers)


def test_peers_that_agree_leave_nobody_off():
    verification = verified([b"a", b"a", b"a"])

    assert verification.verdict == AGREED
    assert [each.verdict for each in verification.peers] == [AGREED, AGREED]
    assert [each.difference for each in verification.peers] == [0.0, 0.0]
    assert verification.outvoted == verification.disputed == ()


def test_one_among_three_is_outvoted_whether_it_came_first_or_last():
    last = verified([b"a", b"a", b"b"])
    first = verified([b"b", b"a", b"a"])

    assert (last.verdict, last.outvoted) == (DIFFERS, ("peer2",))
    assert (first.verdict, first.outvoted) == (DIFFERS, ("peer0",))
    assert last.disputed == first.disputed == ()


def test_two_that_disagree_only_disagree():
    verification = verified([b"a", b"b"])

    assert verification.verdict == DIFFERS
    assert (verification.outvoted, verification.disputed) == ((), ("peer0", "peer1"))


def test_fewer_than_wanted_is_no_success():
    assert verified([b"a", b"a"], wanted=2).verdict == UNVERIFIED
    assert verified([b"a"], wanted=1).verdict == UNVERIFIED


@given(st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=2, max_size=6))
def test_exactly_those_outside_a_majority_are_outvoted(outputs: list[bytes]):
    verification = verified(outputs)

    (commonest, count), *_ = Counter(outputs).most_common()
    peers = [f"peer{number}" for number in range(len(outputs))]
    off = [p for p, output in zip(peers, outputs, strict=True) if output != commonest]
    if 2 * count > len(outputs):
        assert sorted(verification.outvoted) == off
        assert verification.disputed == ()
    else:
        assert verification.outvoted == ()
        assert sorted(verification.disputed) == peers
    assert (verification.verdict == AGREED) == (len(set(outputs)) == 1)


def test_another_profile_is_no_lie_but_no_agreement_either():
    ballot = Ballot(compare, {}, run_of(0, b"a"))

    told = ballot.add(run_of(1, b"b", {**PROFILE, "engine": "another"}))
    verification = ballot.outcome(1, (told,))

    assert (told.verdict, told.difference) == (UNVERIFIED, 1.0)
    assert "another way (engine)" in told.reason
    assert verification.verdict == UNVERIFIED
    assert verification.outvoted == verification.disputed == ()


def test_equal_outputs_agree_whatever_computed_them():
    ballot = Ballot(compare, {}, run_of(0, b"a"))

    assert ballot.add(run_of(1, b"a", {})).verdict == AGREED


@pytest.mark.parametrize("other", [{**PROFILE, "engine": "z"}, {**PROFILE, "threads": 9}])
def test_a_tolerance_holds_across_engines(other: Profile):
    assert unlike(PROFILE, other, 0.0)
    assert not unlike(PROFILE, other, 1e-5)


@pytest.mark.parametrize("name", ["model", "precision"])
def test_no_tolerance_holds_across_models_and_precisions_nor_where_they_are_unknown(name: str):
    less = {key: value for key, value in PROFILE.items() if key != name}

    assert unlike(PROFILE, {**PROFILE, name: "other"}, 1e-5) == (name,)
    assert unlike(PROFILE, less, 1e-5) == (name,)
    assert unlike(less, less, 1e-5) == (name,)


@pytest.mark.parametrize("fact", [{"rows": "vary with the batch"}, {"device": "cuda"}])
def test_what_rounds_in_its_own_way_each_time_is_never_held_against_anybody(fact: dict[str, str]):
    profile = {**PROFILE, **fact}

    assert unlike(profile, profile, 0.0) == tuple(fact)


def test_a_worker_cannot_say_which_model_it_ran():
    assert profile_of({"model": "theirs", "engine": "e"}, "ours", "auto") == {
        "model": "ours",
        "engine": "e",
    }
    assert "model" not in profile_of({"model": "theirs"}, "", "auto")


def test_the_least_declared_tolerance_counts():
    embed = kind_named("embed")
    one = run_of(0, b"", fp32=0.5)

    assert Ballot(embed.compare, embed.TOLERANCES, one).tolerance == 0.5
    ballot = Ballot(embed.compare, embed.TOLERANCES, one)
    ballot.add(run_of(1, b""))

    assert ballot.tolerance == embed.TOLERANCES["fp32"]


def test_an_output_that_is_none_differs_and_is_outvoted():
    embed, noop = kind_named("embed"), kind_named("bench.noop")
    broken = noop.encode_input(["not vectors"])
    import cbor2

    whole = cbor2.dumps(["f32", 1, 1, b"\0\0\0\0"])
    ballot = Ballot(embed.compare, embed.TOLERANCES, run_of(0, broken))
    peers = tuple(ballot.add(run_of(number, whole)) for number in (1, 2))

    outcome = ballot.outcome(2, peers)

    assert [each.difference for each in peers] == [None, None]
    assert outcome.outvoted == ("peer0",)


@pytest.mark.parametrize(
    "fault", [RecursionError("too deep"), ValueError("no number"), MemoryError(), KeyError("a")]
)
def test_outputs_that_cannot_be_compared_are_apart_whatever_goes_wrong(fault: Exception):
    def breaks(_output: bytes, _other: bytes, _tolerance: float) -> Difference:
        raise fault

    ballot = Ballot(breaks, {}, run_of(0, b"a"))

    verdict = ballot.add(run_of(1, b"b"))

    assert (verdict.verdict, verdict.difference) == (DIFFERS, None)
    assert type(fault).__name__ in verdict.reason


@pytest.mark.parametrize("amount", [float("inf"), float("nan")])
def test_a_difference_that_no_record_could_hold_is_none(amount: float):
    def apart(_output: bytes, _other: bytes, _tolerance: float) -> Difference:
        return Difference(amount, False, "far apart")

    verdict = Ballot(apart, {}, run_of(0, b"a")).add(run_of(1, b"b"))

    assert (verdict.verdict, verdict.difference, verdict.reason) == (DIFFERS, None, "far apart")


def test_the_precision_is_the_one_that_was_asked_for_whatever_its_worker_says():
    said = {"precision": "fp-32", "engine": "e"}

    assert profile_of(said, "m", "fp32")["precision"] == "fp32"
    assert profile_of(said, "m", "auto")["precision"] == "fp-32"
