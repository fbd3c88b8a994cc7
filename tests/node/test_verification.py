"""Other peers run a job again, and what comes of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cbor2
import pytest
import trio
from trio.testing import MockClock

from node.errors import InputError
from node.job import JobSpec, summary_of
from node.runner.kinds import BadInputError, embed, pipeline
from protocols.cid import CID
from protocols.errors import JobFailed
from protocols.limits import MAX_VERIFICATIONS, OBSERVATION_FADE_S
from tests.node.test_carrier import carrying
from tests.support.api import embedders, lengths
from tests.support.jobs import JobMesh, JobNode, spec
from tests.support.runners import FakeRunnerPool, model_of
from tests.support.transports import until

INPUT = embed.encode_input(["one", "three"])


def lie(content: bytes) -> bytes:
    """Embeddings of something else."""
    return lengths(embed.encode_input([text[1:] for text in embed.decode_input(content)]))


def a_mesh(
    *workers: FakeRunnerPool, roles: tuple[str, ...] = ("submitter",)
) -> tuple[JobMesh, JobNode, list[JobNode]]:
    mesh = JobMesh()
    submitter = mesh.add(*roles)
    return mesh, submitter, [mesh.add("worker", runners=runners) for runners in workers]


def job(number: int = 1, **changes: object) -> JobSpec:
    return spec(number, **{"input": INPUT, "items": 2, **changes})


async def test_honest_peers_agree_and_the_verdict_is_on_record(autojump_clock: MockClock) -> None:
    mesh, submitter, workers = a_mesh(*(embedders() for _ in range(4)))

    async with mesh.running():
        result = await submitter.submitter.run(job(verify=2))

    verification = result.verification
    assert verification is not None
    assert (verification.verdict, verification.tolerance) == ("agreed", 1e-5)
    assert [each.difference for each in verification.peers] == [0.0, 0.0]
    asked = {result.worker, *(each.peer for each in verification.peers)}
    assert len(asked) == 3
    runs = [run for worker in workers for run in worker.recorder.of_kind("job.run")]
    assert {run.used[1] for run in runs} == {(result.input_cid, "input")}
    assert len({run.attributes["job_id"] for run in runs}) == 3
    (verified,) = submitter.recorder.of_kind("job.verified")
    assert result.accepted_cid is not None
    others = tuple(each.record_cid for each in verification.peers)
    assert verified.informed_by == (result.accepted_cid, *others)
    assert verified.used[0] == (result.output_cid, "output")
    assert len(verified.used) == 3
    assert verified.attributes["profile"]["precision"] == "fp32"
    assert verified.attributes["verdict"] == "agreed"
    assert CID.of(verified.encode()) == verification.record_cid
    assert not submitter.recorder.reports


async def test_others_run_in_the_precision_of_the_first(autojump_clock: MockClock) -> None:
    mesh, submitter, workers = a_mesh(embedders(), embedders())

    async with mesh.running():
        await submitter.submitter.run(job(1, verify=1))
        await submitter.submitter.run(job(2, verify=1, precision="bf16"))

    asked = [request.precision for each in workers for request in each.runners.requests]
    assert sorted(asked) == ["bf16", "bf16", "fp32", "fp32"]


@pytest.mark.parametrize("is_first", [True, False])
async def test_one_liar_among_three_is_found_reported_once_and_gets_fewer_jobs(
    autojump_clock: MockClock, is_first: bool
) -> None:
    mesh, submitter, (liar, honest, _) = a_mesh(embedders(output_of=lie), embedders(), embedders())
    first = liar if is_first else honest

    async with mesh.running():
        result = await submitter.submitter.run(job(verify=2, peer=first.peer_id))
        workers = [(await submitter.submitter.run(job(n))).worker for n in range(2, 202)]
        explanation = submitter.submitter.explanation(job(201).job_id)
        await trio.sleep(2.5 * OBSERVATION_FADE_S)
        later = [(await submitter.submitter.run(job(n))).worker for n in range(202, 402)]

    assert result.verification is not None
    assert result.verification.verdict == "differs"
    assert result.verification.outvoted == (liar.peer_id,)
    (report,) = submitter.recorder.reports
    (verified,) = submitter.recorder.of_kind("job.verified")
    assert report.exceptions[0].type == "VerificationMismatch"
    headline, figures = report.exceptions[0].value.split("\n")
    assert headline == "peers computed different outputs of embed with minilm"
    assert f"outvoted: {liar.peer_id}" in figures
    assert report.job_cid == str(CID.of(verified.encode()))
    share = Counter(workers)[liar.peer_id] / len(workers)
    assert share < 0.1, "a third would be its share"
    assert Counter(later)[liar.peer_id] / len(later) > 0.15, "it fades"
    assert explanation is not None
    (row,) = [each for each in explanation.told()["candidates"] if each["peer"] == liar.peer_id]
    assert "gave other output than others" in row["basis"]


async def test_two_that_disagree_are_both_doubted_a_little(autojump_clock: MockClock) -> None:
    mesh, submitter, (one, other) = a_mesh(embedders(output_of=lie), embedders())

    async with mesh.running():
        result = await submitter.submitter.run(job(verify=1))
        workers = Counter([(await submitter.submitter.run(job(n))).worker for n in range(2, 102)])

    assert result.verification is not None
    assert result.verification.verdict == "differs"
    assert result.verification.outvoted == ()
    assert set(result.verification.disputed) == {one.peer_id, other.peer_id}
    assert len(submitter.recorder.reports) == 1
    assert min(workers.values()) > 25, "both are still in use"


async def test_too_few_peers_are_no_success(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_mesh(embedders(), embedders())

    async with mesh.running():
        result = await submitter.submitter.run(job(verify=3))

    verification = result.verification
    assert verification is not None
    assert (verification.verdict, verification.wanted) == ("unverified", 3)
    assert [each.verdict for each in verification.peers] == ["agreed"]
    assert verification.reason == "only 1 other peer has this model"
    assert len(submitter.recorder.of_kind("job.verified")) == 1
    assert not submitter.recorder.reports


async def test_a_node_alone_says_that_nobody_else_verified(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    node = mesh.add("submitter", "worker", runners=embedders())

    async with mesh.running():
        result = await node.submitter.run(job(verify=1))

    assert result.accepted_cid is not None
    assert summary_of(job(), result)["verification"] == {
        **summary_of(job(), result)["verification"],
        "verdict": "unverified",
        "wanted": 1,
        "peers": [],
    }


async def test_a_peer_that_fails_is_told_and_another_is_asked(autojump_clock: MockClock) -> None:
    broken = FakeRunnerPool(error=JobFailed("no vectors today", code="bad-output"))
    mesh, submitter, (first, failing, _) = a_mesh(embedders(), broken, embedders())

    async with mesh.running():
        result = await submitter.submitter.run(job(verify=2, peer=first.peer_id))

    assert result.verification is not None
    told = {each.peer: each for each in result.verification.peers}
    assert len(told) == 2
    assert result.verification.verdict == "unverified"
    assert "no vectors today" in told[failing.peer_id].reason


async def test_what_can_not_be_verified_is_not_begun(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_mesh(embedders())

    async with mesh.running():
        with pytest.raises(InputError, match="0 to 4 peers"):
            await submitter.submitter.run(job(verify=MAX_VERIFICATIONS + 1))
        with pytest.raises(BadInputError, match="no kind"):
            await submitter.submitter.run(job(2, verify=1, kind="another"))

    assert not submitter.recorder.records


async def test_the_time_of_a_job_is_also_that_of_its_verification(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, (first, _) = a_mesh(embedders(), embedders(hold=True))

    async with mesh.running():
        began = trio.current_time()
        result = await submitter.submitter.run(job(verify=1, peer=first.peer_id, budget_ms=20_000))
        took = trio.current_time() - began

    assert took == pytest.approx(20, abs=1)
    assert result.verification is not None
    assert result.verification.verdict == "unverified"
    assert "time ran out" in result.verification.reason


async def test_a_kept_job_is_over_when_it_is_verified_whatever_becomes_of_the_daemon(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, (first, other) = a_mesh(embedders(), embedders(hold=True))
    wanted = job(verify=1, peer=first.peer_id)

    async with mesh.running():
        async with carrying(submitter, tmp_path) as carrier:
            await carrier.submit(wanted)
            await until(lambda: other.runners.running == 1)
        other.runners.hold = False
        async with carrying(submitter, tmp_path) as carrier:
            end = await carrier.wait(wanted.job_id)

    assert end.result is not None
    assert end.result["verification"]["verdict"] == "agreed"
    assert first.runners.finished == 1, "it was accepted before"
    accepted = [r.attributes["job_id"] for r in submitter.recorder.of_kind("job.accepted")]
    assert accepted.count(wanted.job_id) == 1


async def test_a_daemon_that_stops_leaves_the_verification_to_the_next(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, (first, *_) = a_mesh(embedders(), *(embedders(pace_s=1.0) for _ in range(2)))
    wanted = job(verify=2, peer=first.peer_id)

    async with mesh.running():
        async with carrying(submitter, tmp_path) as carrier:
            await carrier.submit(wanted)
            await until(lambda: bool(submitter.recorder.of_kind("job.accepted")))
            await submitter.submitter.drain()
            await trio.sleep(0.1)
            unended = carrier.kept.ended(wanted.job_id)
        submitter.submitter._is_draining = False
        async with carrying(submitter, tmp_path) as carrier:
            end = await carrier.wait(wanted.job_id)

    assert unended is None
    assert end.result is not None
    assert end.result["verification"]["verdict"] == "agreed"


@pytest.mark.parametrize("asked", ["auto", "fp32"])
async def test_nobody_escapes_by_naming_a_precision_that_nobody_knows(
    autojump_clock: MockClock, asked: str
) -> None:
    liars = embedders(output_of=lie, facts={"precision": "fp-32"})
    mesh, submitter, (liar, *_) = a_mesh(liars, embedders(), embedders())

    async with mesh.running():
        with pytest.raises(JobFailed) as failed:
            await submitter.submitter.run(job(1, verify=2, peer=liar.peer_id, precision=asked))
        result = await submitter.submitter.run(job(2, verify=1, precision=asked))

    assert failed.value.code == "bad-output"
    assert "'fp-32'" in failed.value.message
    assert result.verification is not None
    assert result.verification.verdict == "agreed"


async def test_results_too_deep_to_be_compared_leave_the_accepted_one_its_verdict(
    autojump_clock: MockClock,
) -> None:
    def answering(result: str) -> FakeRunnerPool:
        return FakeRunnerPool(output_of=lambda _: cbor2.dumps([result]))

    mesh = JobMesh()
    submitter = mesh.add("submitter")
    honest, deep, infinite = (
        mesh.add("worker", runners=answering(result), model=model_of("pipe", "pipeline"))
        for result in ('{"score": 0.5}', "[" * 600 + "]" * 600, '{"score": 1e999}')
    )
    content = pipeline.encode_input(["x"])
    wanted = {"kind": "pipeline", "model": "pipe", "input": content, "items": 1}

    async with mesh.running():
        result = await submitter.submitter.run(spec(1, peer=honest.peer_id, verify=2, **wanted))

    assert result.output == cbor2.dumps(['{"score": 0.5}'])
    assert result.verification is not None
    assert result.verification.verdict == "unverified"
    assert result.verification.record_cid is not None
    assert deep.runners.finished
    assert infinite.runners.finished
