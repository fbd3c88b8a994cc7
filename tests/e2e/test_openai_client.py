"""OpenAI's own Python client against a mesh of two, where the other node computes."""

from __future__ import annotations

import base64
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import openai
import pytest
import trio

from node.client import connect, connect_sync
from tests.support.machines import Machine, free_port, stopping

pytestmark = pytest.mark.e2e

MODEL = "all-minilm-l6-v2"
WRITER = "smollm2"
TEXTS = ["A man is eating food.", "Ein Mann reitet auf einem Pferd."]


@pytest.fixture(scope="module")
def mesh() -> Iterator[tuple[Machine, Machine]]:
    """A submitter whose API is on, and a worker."""
    root = Path(mkdtemp(prefix="covey-"))
    options = {"COVEY_API_ENABLED": "true", "COVEY_API_PORT": str(free_port())}
    submitter = Machine("submitter", root / "submitter", options=options)
    worker = Machine("worker", root / "worker")
    with stopping(submitter, worker):
        submitter.run("init", "--role", "admitter,submitter")
        submitter.up()
        worker.run("join", submitter.run("ticket", "--role", "worker").stdout.strip())
        for model in (MODEL, WRITER):
            worker.run("models", "add", model)
        worker.up()
        submitter.until(lambda: offers(submitter), "hear of the models")
        yield submitter, worker


def offers(machine: Machine) -> bool:
    with connect_sync(machine.home) as covey:
        return any({MODEL, WRITER} <= {*peer["models"]} for peer in covey.peers())


@pytest.fixture
def client(mesh: tuple[Machine, Machine]) -> Iterator[openai.OpenAI]:
    """A client that takes address and token from where `covey status` says they are."""
    api = mesh[0].json("status")["api"]
    token = Path(api["token_file"]).read_text().strip()
    with openai.OpenAI(base_url=api["url"], api_key=token, max_retries=0) as client:
        yield client


def test_it_lists_and_shows_the_models_of_the_mesh(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, WRITER]
    assert client.models.retrieve(MODEL).owned_by == "covey"


def test_its_embeddings_come_from_the_other_node_and_are_those_of_the_command(
    client: openai.OpenAI, mesh: tuple[Machine, Machine]
) -> None:
    submitter, worker = mesh

    floats = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    packed = client.embeddings.with_raw_response.create(
        model=MODEL, input=TEXTS, encoding_format="base64"
    )
    usual = client.embeddings.create(model=MODEL, input=TEXTS)
    ran = submitter.json("run", "embed", "--model", MODEL, stdin="\n".join(TEXTS))
    why = submitter.json("job", "why", packed.headers["x-request-id"])

    vectors = np.array([row.embedding for row in floats.data], dtype=np.float32)
    unpacked = [
        np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4")
        for row in packed.http_response.json()["data"]
    ]
    assert vectors.shape == (2, 384)
    assert np.allclose(unpacked, vectors, atol=2e-7)
    assert np.allclose([row.embedding for row in usual.data], vectors, atol=2e-7)
    assert np.allclose([row["embedding"] for row in ran["output"]], vectors, atol=2e-7)
    assert floats.usage.prompt_tokens == floats.usage.total_tokens == ran["execution"]["tokens"]
    assert worker.json("id")["peer"] in [row["peer"] for row in why["candidates"]]


CAPITAL = "What is the capital of France? Answer in one sentence."


def test_a_chat_is_answered_whole_and_as_a_stream_and_by_the_command_alike(
    client: openai.OpenAI, mesh: tuple[Machine, Machine]
) -> None:
    asked: Any = {
        "model": WRITER,
        "messages": [{"role": "user", "content": CAPITAL}],
        "max_tokens": 24,
        "temperature": 0,
    }

    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    options = ("--model", WRITER, "--chat", "--max-tokens", "24", "--stream")
    ran = mesh[0].run("run", "generate", *options, stdin=CAPITAL)

    text = whole.choices[0].message.content
    assert text is not None
    assert "Paris" in text
    assert ran.stdout == f"{text}\n"
    assert chunks[0].choices[0].delta.role == "assistant"
    parts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(parts) == text
    assert len([part for part in parts if part]) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == [
        whole.choices[0].finish_reason
    ]
    assert whole.usage is not None
    assert whole.usage.prompt_tokens > 10
    assert 0 < whole.usage.completion_tokens <= 24
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].system_fingerprint == whole.system_fingerprint


def test_completions_are_continued_and_too_long_a_prompt_has_its_own_error(
    client: openai.OpenAI,
) -> None:
    answer = client.completions.create(
        model=WRITER, prompt=["1, 2, 3, 4,", "A, B, C,"], max_tokens=4, temperature=0
    )
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model=WRITER, prompt="word " * 9_000, max_tokens=1)

    assert "5" in answer.choices[0].text
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert too_long.value.code == "context_length_exceeded"


def test_a_stream_that_is_broken_off_frees_the_worker(
    client: openai.OpenAI, mesh: tuple[Machine, Machine]
) -> None:
    _, worker = mesh
    stream = client.completions.create(
        model=WRITER, prompt="Once upon a time", max_tokens=2_000, temperature=0, stream=True
    )

    with stream:
        first = next(iter(stream))

    assert first.choices[0].finish_reason is None
    worker.until(lambda: not is_working(worker), "stop the job")
    ended = mesh[0].json("records", "list", "--kind", "job.ended")
    assert "cancelled" in [each["status"] for each in ended]


def is_working(machine: Machine) -> bool:
    return any(each["jobs"] for each in machine.json("status")["runners"])


def test_a_program_sees_text_grow(mesh: tuple[Machine, Machine]) -> None:
    with connect_sync(mesh[0].home) as covey:
        job = covey.submit("generate", model=WRITER, input=["One, two,", "A, B,"], max_tokens=6)
        deltas = list(job)
        rows = list(job.result().rows())

    async def read() -> list[dict[str, Any]]:
        async with connect(mesh[0].home) as covey:
            return [delta async for delta in await covey.job(job.id)]

    for told in (deltas, trio.run(read)):
        for row in rows:
            parts = [each["text"] for each in told if each["index"] == row["index"]]
            assert "".join(parts) == row["text"]
    assert len(rows) == 2


def test_its_errors_are_the_ones_that_it_knows(
    client: openai.OpenAI, mesh: tuple[Machine, Machine]
) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="gpt-nine", input="x")
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.embeddings.create(model=MODEL, input=[1, 2, 3])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(default_headers={"Origin": "https://evil.example"}).models.list()

    assert unknown.value.code == "model_not_found"
    token_file = mesh[0].home / "api.token"
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert token_file.read_text().strip() not in mesh[0].log.read_text()
