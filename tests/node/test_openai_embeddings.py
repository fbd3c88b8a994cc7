from __future__ import annotations

import base64
import struct
from typing import Any

import cbor2
import pytest
import trio
from trio.testing import MockClock

from node.api.room import Room
from protocols.errors import JobFailed, Refused
from protocols.limits import MAX_EMBED_TEXT_BYTES
from tests.support.api import AsgiClient, a_pair, error_of, serving
from tests.support.jobs import DIMENSION, JobMesh
from tests.support.transports import until


async def test_texts_become_vectors_computed_by_another_peer(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await api.embed(["one", "three"])

    answer = response.json()
    assert response.status_code == 200
    assert (answer["object"], answer["model"]) == ("list", "minilm")
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [row["index"] for row in answer["data"]] == [0, 1]
    assert {row["object"] for row in answer["data"]} == {"embedding"}
    assert answer["data"][1]["embedding"] == list(
        struct.unpack("<4f", struct.pack("<4f", 5, 5 / 3, 0, 1))
    )
    assert worker.runners.finished == 1
    (submitted,) = submitter.recorder.of_kind("job.submitted")
    assert submitted.attributes["job_id"].hex() == response.headers["x-request-id"]


async def test_floats_and_base64_are_the_same_numbers(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), serving(submitter) as api:
        floats = (await api.embed("a text")).json()
        packed = (await api.embed("a text", encoding_format="base64", user="me")).json()

    vector = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack("<4f", vector)) == floats["data"][0]["embedding"]


async def test_a_large_batch_comes_whole_and_in_order(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()
    texts = ["x" * (number % 50) for number in range(10_000)]

    async with mesh.running(), serving(submitter) as api:
        answer = (await api.embed(texts)).json()

    assert [row["index"] for row in answer["data"]] == list(range(10_000))
    assert [row["embedding"][0] for row in answer["data"]] == [len(text) for text in texts]


async def test_tokens_that_a_worker_does_not_count_are_not_made_up(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, _ = a_pair(facts={})

    async with mesh.running(), serving(submitter) as api:
        answer = (await api.embed("one")).json()

    assert answer["usage"] is None
    assert len(answer["data"]) == 1


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"input": "x"}, None, "model"),
        ({"model": "minilm"}, None, "input"),
        ({"model": "minilm", "input": [1, 2]}, "input", "tokens"),
        ({"model": "minilm", "input": [[1], [2]]}, "input", "tokens"),
        ({"model": "minilm", "input": ["one", 2]}, "input", "list of texts"),
        ({"model": "minilm", "input": {"a": 1}}, "input", "list of texts"),
        ({"model": "minilm", "input": []}, None, "no texts"),
        ({"model": "minilm", "input": "x" * (MAX_EMBED_TEXT_BYTES + 1)}, None, "larger than"),
        ({"model": "minilm", "input": "x", "encoding_format": "int8"}, None, "int8"),
        ({"model": "minilm", "input": "x", "input_type": "query"}, None, "input_type"),
        ({"model": "minilm", "input": "x", "dimensions": 3}, "dimensions", "has 4 dimensions"),
        ({"model": "x" * 257, "input": "x"}, None, "256"),
    ],
)
async def test_a_request_that_cannot_be_is_refused_and_named(
    autojump_clock: MockClock, body: dict[str, Any], param: str | None, told: str
) -> None:
    mesh, submitter, worker = a_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await api.client.post("/v1/embeddings", json=body)

    error = error_of(response)
    assert response.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert told in error["message"]
    assert not worker.runners.requests


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"input":' + b"[" * 100_000]
)
async def test_what_is_no_json_is_refused(autojump_clock: MockClock, content: bytes) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await api.client.post("/v1/embeddings", content=content)

    assert response.status_code == 400
    assert error_of(response)["code"] == "bad-input"


async def test_the_models_own_dimensions_may_be_asked_for(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await api.embed("one", dimensions=DIMENSION)

    assert response.status_code == 200


async def test_a_model_that_nobody_has_is_not_found(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await api.embed("one", model="gpt-nine")

    error = error_of(response)
    assert response.status_code == 404
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "gpt-nine" in error["message"]


async def test_without_any_worker_the_service_is_unavailable(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")

    async with mesh.running(), serving(submitter) as api:
        response = await api.embed("one")

    assert response.status_code == 503
    assert error_of(response)["code"] == "no-worker"
    assert response.headers["retry-after"] == "5"


async def test_the_requests_time_is_the_deadline_of_its_job(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(hold=True)

    async with mesh.running(), serving(submitter, timeout_s=5) as api:
        response = await api.embed("one")
        await until(lambda: worker.runners.cancelled == 1)

    assert response.status_code == 504
    assert error_of(response)["code"] == "expired"
    assert len(response.headers["x-request-id"]) == 32


async def test_a_job_that_fails_is_told_without_a_traceback(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair(error=JobFailed("the model computed NaN", code="bad-output"))

    async with mesh.running(), serving(submitter) as api:
        response = await api.embed("one")

    error = error_of(response)
    assert response.status_code == 502
    assert (error["type"], error["code"]) == ("server_error", "bad-output")
    assert "NaN" in error["message"]
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    "output",
    [
        cbor2.dumps(["f32", 2, DIMENSION, bytes(8 * DIMENSION)]),
        cbor2.dumps(["f32", 1, DIMENSION, struct.pack("<4f", 1, float("nan"), 0, 0)]),
        b"anything",
    ],
)
async def test_an_output_that_is_not_what_was_asked_for_is_not_passed_on(
    autojump_clock: MockClock, output: bytes
) -> None:
    mesh, submitter, _ = a_pair(output_of=lambda _: output)

    async with mesh.running(), serving(submitter) as api:
        response = await api.embed("one")

    assert response.status_code == 502
    assert error_of(response)["code"] == "bad-output"


async def test_what_was_not_foreseen_is_reported_and_not_told(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    def fails() -> None:
        raise ZeroDivisionError("a secret")

    async with mesh.running(), serving(submitter, check_may_submit=fails) as api:
        response = await api.embed("one")

    assert response.status_code == 500
    assert error_of(response)["code"] == "node-fault"
    assert "secret" not in response.text
    assert [type(error) for error in api.reports] == [ZeroDivisionError]


async def test_a_node_that_may_not_submit_says_so(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    def refuses() -> None:
        raise Refused("this node may not", code="not-submitter")

    async with mesh.running(), serving(submitter, check_may_submit=refuses) as api:
        response = await api.embed("one")

    assert response.status_code == 403
    assert error_of(response)["type"] == "permission_error"


async def test_more_requests_than_there_is_room_for_are_told_to_come_back(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(pace_s=10.0)

    async with (
        mesh.running(),
        serving(submitter, room=Room(requests=1)) as api,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(api.embed, "one")
        await until(lambda: worker.runners.running == 1)
        refused = await api.embed("two")
        await until(lambda: worker.runners.finished == 1)
        served = await api.embed("three")

    error = error_of(refused)
    assert refused.status_code == 429
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert refused.headers["retry-after"] == "1"
    assert served.status_code == 200


async def test_bodies_that_are_held_count_together(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), serving(submitter, room=Room(held_bytes=1_000)) as api:
        refused = await api.embed("x" * 2_000)
        served = [(await api.embed("x" * 600)).status_code for _ in range(2)]

    assert refused.status_code == 429
    assert served == [200, 200], "what a request held is given back"


async def test_a_client_that_goes_away_cancels_its_job(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(hold=True)

    async with mesh.running(), serving(submitter) as api, trio.open_nursery() as nursery:
        client = AsgiClient("/v1/embeddings", {"model": "minilm", "input": "one"})
        nursery.start_soon(client.ask, api)
        await until(lambda: worker.runners.running == 1)
        client.gone.set()
        await until(lambda: worker.runners.cancelled == 1)

    assert client.statuses == [499]
    assert len(submitter.recorder.of_kind("job.ended")) == 1


async def test_texts_that_are_longer_than_the_model_reads_are_not_cut_unless_that_was_asked_for(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, _ = a_pair(facts={"truncated": 1})

    async with mesh.running(), serving(submitter) as api:
        refused = await api.embed(["one", "a long one"])
        cut = await api.embed(["one", "a long one"], truncate=True)

    error = error_of(refused)
    assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == "input"
    assert "1 of 2 texts" in error["message"]
    assert cut.status_code == 200
    assert cut.headers["X-Truncated-Texts"] == "1"
    assert len(cut.json()["data"]) == 2
