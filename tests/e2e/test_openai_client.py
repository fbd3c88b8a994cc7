"""OpenAI's own Python client against a mesh of two, where the other node computes."""

from __future__ import annotations

import base64
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import openai
import pytest

from node.client import connect_sync
from tests.support.machines import Machine, free_port, stopping

pytestmark = pytest.mark.e2e

MODEL = "all-minilm-l6-v2"
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
        worker.run("models", "add", MODEL)
        worker.up()
        submitter.until(lambda: offers(submitter), "hear of the model")
        yield submitter, worker


def offers(machine: Machine) -> bool:
    with connect_sync(machine.home) as covey:
        return any(MODEL in peer["models"] for peer in covey.peers())


@pytest.fixture
def client(mesh: tuple[Machine, Machine]) -> Iterator[openai.OpenAI]:
    """A client that takes address and token from where `covey status` says they are."""
    api = mesh[0].json("status")["api"]
    token = Path(api["token_file"]).read_text().strip()
    with openai.OpenAI(base_url=api["url"], api_key=token, max_retries=0) as client:
        yield client


def test_it_lists_and_shows_the_models_of_the_mesh(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
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
