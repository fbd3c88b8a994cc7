from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from protocols import dagcbor, limits, verification
from protocols.car import encode_section
from protocols.cid import CID
from protocols.excerpt import Absent, Contents, Part, Proof, encode
from protocols.feed import HEADER_TYPE, Bundle, Place, SignedHeader, sign_bundle
from protocols.keys import pae
from protocols.record import Record
from tests.support.excerpts import a_job, car, car_of, faults_of, part_of, verdict_of
from tests.support.feeds import bundle, record
from tests.support.members import key_of

SEED = 20261127


def statement(part: Part) -> bytes:
    return encode(Proof(part.proof.header_bytes, part.proof.signature))


def contents(records: int, proofs: int = 1) -> bytes:
    return encode(Contents(None, records, proofs, 0, 0))


def test_a_whole_excerpt_is_verified_and_says_what_was_checked() -> None:
    job, parts = a_job()

    verdict = verdict_of(car_of(parts, job.output))

    assert verdict.is_good
    assert verdict.asked == job.output
    assert (verdict.records, verdict.signatures) == (6, 2)
    assert verdict.authors == {key_of(1).peer_id, key_of(2).peer_id}
    assert verdict.missing == verdict.left_out == set()
    assert verdict.forked == set()


def test_a_flipped_bit_in_any_byte_is_found_and_named() -> None:
    job, parts = a_job()
    file, rng = car_of(parts, job.output), random.Random(SEED)

    for place in range(len(file)):
        flipped = bytearray(file)
        flipped[place] ^= 1 << rng.randrange(8)
        verdict = verdict_of(bytes(flipped))
        assert not verdict.is_good, place
        assert all(fault.what for fault in verdict.faults)


def test_a_flipped_bit_is_told_with_its_block_and_byte() -> None:
    job, parts = a_job()
    file = car_of(parts)
    run = next(r for r in parts[0].records if CID.of(r) == job.run)
    section = encode_section(job.run, run)
    at = file.index(section)
    flipped = file.replace(section, section[:-1] + bytes([section[-1] ^ 1]))

    first, *others = faults_of(flipped)

    assert first == (f"byte {at}: the bytes of block {job.run} are not those that it is named by")
    assert any(f"names {job.run}, which is neither here" in other for other in others)


@given(st.data())
def test_a_file_that_was_cut_anywhere_is_found(data: st.DataObject) -> None:
    job, parts = a_job()
    file = car_of(parts, job.output)

    assert faults_of(file[: data.draw(st.integers(0, len(file) - 1))])


def test_a_file_that_was_cut_between_two_blocks_is_found() -> None:
    _, parts = a_job()
    whole, without = car_of(parts), car_of(parts[:1])
    shared = whole[: whole.index(statement(parts[0])) + len(statement(parts[0]))]

    assert not faults_of(without)
    assert "the contents are not at its end: the file was cut" in faults_of(shared)


def test_parents_that_are_not_there_must_be_declared() -> None:
    job, parts = a_job()
    submitters = parts[1:]

    missing = verdict_of(car_of(submitters))
    left_out = verdict_of(car_of(submitters, known=[job.run]))

    assert missing.is_good
    assert left_out.is_good
    assert (missing.missing, missing.left_out) == ({job.run}, set())
    assert (left_out.missing, left_out.left_out) == (set(), {job.run})


def test_a_parent_that_was_taken_out_is_named() -> None:
    job, (workers, submitters) = a_job()
    at = [CID.of(each) for each in submitters.records].index(job.submitted)
    left = tuple(r for i, r in enumerate(submitters.records) if i != at)
    blocks = [*workers.records, statement(workers), *left, statement(submitters), contents(5, 2)]

    assert faults_of(car([CID.of(blocks[-1])], *blocks)) == [
        f"record {job.accepted} names {job.submitted}, which is neither here nor said to be absent"
    ]


def test_a_record_that_is_here_cannot_be_declared_absent() -> None:
    made = bundle(key_of(1))
    here = CID.of(made.records[0])
    absent, last = encode(Absent(left_out=(here,))), encode(Contents(None, 3, 1, 0, 1))
    blocks = (*made.records, statement(part_of(made)), absent, last)

    assert faults_of(car([CID.of(last)], *blocks)) == [
        f"record {here} is said to be absent, and is here"
    ]


def test_a_record_that_nobody_signed_is_named() -> None:
    made = bundle(key_of(1))
    alone = record(key_of(1), 77).encode()
    last = contents(4)
    blocks = (*made.records, alone, statement(part_of(made)), last)

    (fault,) = faults_of(car([CID.of(last)], *blocks))

    assert f"record {CID.of(alone)}: no header behind it" in fault
    assert key_of(1).peer_id in fault


def test_a_record_under_another_peers_signature_is_not_its_authors() -> None:
    theirs = record(key_of(1)).encode()
    stolen = sign_bundle(key_of(2), Place(1, 0, None), [theirs], 1)
    last = contents(1)

    faults = faults_of(car([CID.of(last)], theirs, statement(part_of(stolen)), last))

    assert any(f"that its author {key_of(1).peer_id} signed" in fault for fault in faults)


def test_a_forged_signature_is_named() -> None:
    made = bundle(key_of(1))
    forged = key_of(2).sign(pae(HEADER_TYPE, made.header_bytes))
    proof = encode(Proof(made.header_bytes, forged))
    last = contents(3)

    faults = faults_of(car([CID.of(last)], *made.records, proof, last))

    assert f"a header of {key_of(1).peer_id} carries an invalid signature" in faults[0]
    assert f"block {CID.of(proof)}" in faults[0]


def test_a_fork_is_told_and_is_no_fault_of_the_file() -> None:
    one, other = bundle(key_of(1)), bundle(key_of(1), marker=1)

    verdict = verdict_of(car_of([part_of(one), part_of(other)]))

    assert verdict.is_good
    assert verdict.forked == {key_of(1).peer_id}
    assert verdict.signatures == 2


def test_a_file_must_tell_of_what_it_is_said_to_be_about() -> None:
    job, parts = a_job()
    stranger = CID.of(b"stranger")

    assert faults_of(car_of(parts), job.run) == []
    assert faults_of(car_of(parts), job.output) == []
    assert faults_of(car_of(parts), stranger) == [
        f"no record here is called {stranger} or names it"
    ]
    assert faults_of(car_of(parts, stranger)) == [
        f"no record here is called {stranger} or names it"
    ]


def test_blocks_that_are_nothing_or_too_much_are_named() -> None:
    made = bundle(key_of(1))
    good = car_of([part_of(made)])
    junk = dagcbor.encode({"covey": ["x"]})
    doubled = encode_section(CID.of(made.records[0]), made.records[0])

    behind = faults_of(good + doubled)

    assert "stands behind the contents" in behind[0]
    assert "is here twice" in behind[1]
    assert "does not say what else it is" in faults_of(good + encode_section(CID.of(junk), junk))[1]


def test_a_proof_of_nothing_that_is_here_is_named() -> None:
    made, other = bundle(key_of(1)), bundle(key_of(2))
    last = contents(3, 2)
    blocks = (*made.records, statement(part_of(made)), statement(part_of(other)), last)

    (fault,) = faults_of(car([CID.of(last)], *blocks))

    assert f"header {other.cid} proves no record in front of it" in fault


def test_contents_that_do_not_add_up_are_named() -> None:
    made = bundle(key_of(1))
    last = contents(9)

    faults = faults_of(car([CID.of(b"?")], *made.records, statement(part_of(made)), last))

    assert faults == [
        "the roots are not what was asked for and the contents",
        "the contents tell of 9 records; 3 are here",
    ]


def test_a_record_that_breaks_a_rule_is_named_although_it_is_signed() -> None:
    bad = dagcbor.encode([1, key_of(1).public, b""])
    signed = sign_bundle(key_of(1), Place(1, 0, None), [bad], 1)
    last = contents(0)

    faults = faults_of(car([CID.of(last)], bad, statement(part_of(signed)), last))

    assert f"block {CID.of(bad)}: a record is invalid" in faults[0]


def test_more_than_memory_should_hold_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "MAX_EXCERPT_RECORDS", 2)
    job, parts = a_job()

    (fault,) = faults_of(car_of(parts, job.output))

    assert "more than 2 records" in fault


def test_only_the_first_faults_are_kept_and_all_are_counted() -> None:
    records = [record(key_of(1), number).encode() for number in range(150)]

    verdict = verdict_of(car([CID.of(b"?")], *records))

    assert len(verdict.faults) == limits.MAX_SHOWN_FAULTS
    assert verdict.fault_count == 151


@given(st.binary(max_size=400))
def test_any_bytes_get_a_verdict(data: bytes) -> None:
    assert not verdict_of(data).is_good


@given(st.binary(min_size=1, max_size=200))
def test_any_block_gets_a_verdict(block: bytes) -> None:
    assert not verdict_of(car([CID.of(b"?")], block)).is_good


def test_parts_of_one_bundle_may_be_told_apart() -> None:
    made: Bundle = bundle(key_of(1), count=5)
    signed = SignedHeader(made.header_bytes, made.signature, made.header)

    verdict = verdict_of(car_of([part_of(made, 0, 3), replace(part_of(made), proof=signed)]))

    assert verdict.is_good
    assert verdict.records == 5
    assert Record.decode(made.records[0]).author == key_of(1).public
