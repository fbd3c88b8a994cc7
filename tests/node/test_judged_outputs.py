"""What a worker answers is looked at before it is accepted: what is no answer to the job's input is
its fault, and somebody else does the job.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import cbor2
import pytest
import trio
from trio.testing import MockClock

from node.job import JobResult
from node.runner import text_output
from node.runner.kinds import embed, generate, pipeline
from protocols.errors import JobFailed
from protocols.limits import BREAKER_FAILURES, RETRY_REGAIN_S
from tests.support.api import WRITER, add_writer, embedders, lengths
from tests.support.jobs import DIMENSION, JobMesh, JobNode, spec
from tests.support.runners import FakeRunnerPool, model_of

TEXTS = embed.encode_input(["one", "three"])
MANY = 1_200
LARGE = embed.encode_input(["text"] * MANY)
NAN = struct.pack("<f", float("nan"))


def large_but(output: bytes) -> Callable[[bytes], bytes]:
    return lambda content: output if content == LARGE else lengths(content)


def a_mesh(*workers: FakeRunnerPool) -> tuple[JobMesh, JobNode, list[JobNode]]:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    return mesh, submitter, [mesh.add("worker", runners=runners) for runners in workers]


async def run_many(submitter: JobNode, **changes: object) -> list[JobResult]:
    """Run jobs, so slowly that each may be tried again."""
    results: list[JobResult] = []
    for number in range(1, 11):
        results.append(await submitter.submitter.run(spec(number, **changes)))
        await trio.sleep(RETRY_REGAIN_S)
    return results


@pytest.mark.parametrize(
    "output",
    [
        b"garbage",
        lengths(embed.encode_input(["only one"])),
        cbor2.dumps([embed.DTYPE, 2, DIMENSION, NAN * 2 * DIMENSION]),
    ],
)
async def test_what_is_no_answer_is_not_accepted_and_another_worker_does_the_job(
    autojump_clock: MockClock, output: bytes
) -> None:
    mesh, submitter, (liar, honest) = a_mesh(embedders(output_of=lambda _: output), embedders())

    async with mesh.running():
        results = await run_many(submitter, input=TEXTS, items=2)

    assert {result.worker for result in results} == {honest.peer_id}
    assert {result.output for result in results} == {lengths(TEXTS)}
    assert len(submitter.recorder.of_kind("job.accepted")) == len(results)
    lies = liar.runners.finished
    assert len(submitter.recorder.of_kind("job.lost")) == lies > 0
    assert len(submitter.recorder.reports) == lies
    assert not liar.worker._jobs.kept_bytes, "it need not keep what is no answer"


async def test_a_worker_that_never_answers_what_was_asked_is_left_alone_for_a_while(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, (liar, honest) = a_mesh(embedders(output_of=lambda _: b"garbage"), embedders())
    job = spec(100, input=TEXTS, items=2)

    async with mesh.running():
        for number in range(BREAKER_FAILURES):
            named = spec(number + 1, input=TEXTS, items=2, peer=liar.peer_id)
            with pytest.raises(JobFailed):
                await submitter.submitter.run(named)
        result = await submitter.submitter.run(job)
        explanation = submitter.submitter.explanation(job.job_id)

    assert result.worker == honest.peer_id
    assert explanation is not None
    assert f"failed {BREAKER_FAILURES} times in a row" in str(explanation.told())


async def test_a_large_answer_is_looked_at_too() -> None:
    content = NAN * DIMENSION * MANY
    output = cbor2.dumps([embed.DTYPE, MANY, DIMENSION, content])
    mesh, submitter, workers = a_mesh(embedders(output_of=large_but(output)), embedders())
    one, other = (
        spec(number, input=LARGE, items=MANY, peer=worker.peer_id)
        for number, worker in enumerate(workers, 1)
    )

    async with mesh.running():
        with pytest.raises(JobFailed, match="not finite"):
            await submitter.submitter.run(one)
        result = await submitter.submitter.run(other)

    assert result.output == lengths(LARGE)


async def test_a_named_worker_without_an_answer_fails_the_job_with_the_reason(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, (liar,) = a_mesh(embedders(output_of=lambda _: b"garbage"))

    async with mesh.running():
        with pytest.raises(JobFailed) as failed:
            await submitter.submitter.run(spec(1, input=TEXTS, items=2, peer=liar.peer_id))

    assert failed.value.code == "bad-output"
    assert "embed" in failed.value.message
    assert not submitter.recorder.of_kind("job.accepted")
    assert len(submitter.recorder.reports) == 1


@pytest.mark.parametrize(
    "parts",
    [
        [text_output.piece(0, "", None, 0)] * 400 + [text_output.piece(0, "x", "stop", 1)],
        [text_output.piece(0, "x", None, 1)] * 400 + [text_output.piece(0, "x", "stop", 1)],
        [text_output.piece(0, "x", "stop", 400)],
        [text_output.piece(0, "x", "stop", 1), text_output.piece(1, "x", "stop", 1)],
    ],
)
async def test_more_than_was_asked_for_is_no_answer(
    autojump_clock: MockClock, parts: list[bytes]
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    add_writer(mesh, output_of=lambda _: b"".join(parts))
    content = generate.encode_input(["hi"], {"max_tokens": 3})
    job = spec(1, kind="generate", model=WRITER, input=content, items=3)

    async with mesh.running():
        with pytest.raises(JobFailed) as failed:
            await submitter.submitter.run(job)

    assert failed.value.code == "bad-output"


async def test_an_input_that_is_none_has_no_answer_to_be_looked_at(
    autojump_clock: MockClock,
) -> None:
    runners = FakeRunnerPool(output_of=lambda _: b"whatever")
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.add("worker", runners=runners, model=model_of("pipe", "pipeline"))
    content = b"no input of any kind"
    job = spec(1, kind="pipeline", model="pipe", input=content, items=1)

    async with mesh.running():
        result = await submitter.submitter.run(job)

    assert result.output == b"whatever"
    with pytest.raises(Exception, match="list"):
        pipeline.decode_input(content)


@pytest.mark.parametrize(
    ("asked", "stated"), [("auto", "fp-32"), ("auto", "int8"), ("fp32", "bf16"), ("bf16", "fp-32")]
)
async def test_a_precision_that_was_not_asked_for_or_that_nobody_knows_is_no_answer(
    autojump_clock: MockClock, asked: str, stated: str
) -> None:
    mesh, submitter, (liar, honest) = a_mesh(embedders(facts={"precision": stated}), embedders())

    async with mesh.running():
        results = await run_many(submitter, input=TEXTS, items=2, precision=asked)

    assert {result.worker for result in results} == {honest.peer_id}
    assert liar.runners.finished
    assert len(submitter.recorder.reports) == liar.runners.finished
