"""A node that has nothing but an upstream serves jobs from other peers; and covey itself, by its
HTTP API, is an upstream.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest

from tests.support.machines import Machine, free_port, stopping
from tests.support.openai_server import FakeOpenAi, OpenAiServer, error

pytestmark = pytest.mark.e2e

TOKEN = "a-word-that-nobody-else-may-read"
MODELS = {"chatty", "vectors"}


@dataclass
class Mesh:
    """A submitter, a worker whose upstream is a fake, and that fake. The worker's own API is the
    submitter's upstream.
    """

    fake: FakeOpenAi
    submitter: Machine
    worker: Machine

    def offered(self) -> set[str]:
        """The models that the submitter knows the worker to offer."""
        peers = self.submitter.json("peers")
        return {model for peer in peers if not peer["is_self"] for model in peer["models"]}

    def run(self, kind: str, model: str, *options: str, stdin: str) -> Any:
        return self.submitter.json("run", kind, "--model", model, *options, stdin=stdin)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    root, fake, port = Path(mkdtemp(prefix="covey-")), FakeOpenAi(token=TOKEN), free_port()
    through_the_worker = {
        "COVEY_UPSTREAM_URL": f"http://127.0.0.1:{port}/v1",
        "COVEY_UPSTREAM_MODELS": "far=vectors, said=chatty",
        "COVEY_UPSTREAM_EMBEDDINGS": "far",
    }
    submitter = Machine("submitter", root / "submitter", options=through_the_worker)
    with OpenAiServer(fake) as server:
        upstream = {
            "COVEY_UPSTREAM_URL": server.url,
            "COVEY_UPSTREAM_EMBEDDINGS": "vectors",
            "COVEY_UPSTREAM_TOKEN": TOKEN,
            "COVEY_API_ENABLED": "true",
            "COVEY_API_PORT": str(port),
        }
        worker = Machine("worker", root / "worker", options=upstream)
        with stopping(submitter, worker):
            submitter.run("init")
            keep(submitter.home / "upstream.token")
            submitter.up()
            ticket = submitter.run("ticket", "--role", "worker,submitter").stdout.strip()
            worker.run("join", ticket)
            keep(worker.home / "api.token")
            worker.up()
            served = Mesh(fake, submitter, worker)
            submitter.until(lambda: served.offered() == MODELS, "hear of the models")
            yield served


def keep(file: Path) -> None:
    """Write the token of the worker's API into a file."""
    file.write_text("t" * 32)
    file.chmod(0o600)


def test_another_peers_jobs_run_at_the_upstream_without_any_runner(mesh: Mesh) -> None:
    chat = mesh.run("generate", "chatty", "--chat", "--max-tokens", "2", stdin="one two three")
    text = mesh.run("generate", "chatty", stdin="four five\nsix")
    vectors = mesh.run("embed", "vectors", stdin="a text\nanother one")
    records = mesh.worker.json("records", "list", "--kind", "job.run")
    status = mesh.worker.json("status")

    assert chat["output"] == [
        {"index": 0, "text": "ONE TWO ", "finish_reason": "length", "tokens": 2}
    ]
    assert [row["text"] for row in text["output"]] == ["FOUR FIVE ", "SIX "]
    assert np.array(vectors["output"][1]["embedding"])[0] == len("another one")
    assert chat["execution"]["backend"] == "openai"
    assert chat["execution"]["precision"] == "upstream"
    assert {run["record_cid"] for run in (chat, text, vectors)} <= {row["cid"] for row in records}
    assert status["runners"] == []
    assert status["upstream"]["state"] == "up"
    assert status["upstream"]["jobs_done"] >= 3
    assert "is up with chatty, vectors" in mesh.worker.run("doctor").stdout


def test_what_goes_wrong_at_the_upstream_is_told_and_its_token_is_nowhere(mesh: Mesh) -> None:
    mesh.fake.faults["completions"] = lambda: error(400, f"too long for {TOKEN}")
    refused = mesh.submitter.run(
        "run", "generate", "--model", "chatty", "--chat", status=1, stdin="one"
    )
    mesh.fake.faults["completions"] = lambda: error(500)
    broken = mesh.submitter.run(
        "run", "generate", "--model", "chatty", "--chat", status=1, stdin="one"
    )
    mesh.fake.faults.clear()

    assert "refused the request with status 400: too long" in refused.stderr
    assert "status 500" in broken.stderr
    written = b"".join(path.read_bytes() for path in mesh.worker.home.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written + mesh.worker.log.read_bytes()


def test_a_cancelled_job_ends_at_the_upstream(mesh: Mesh) -> None:
    mesh.fake.pause_after, mesh.fake.given_up = 1, threading.Event()
    job = mesh.submitter.run(
        "job", "submit", "generate", "--model", "chatty", "--chat", stdin="one two"
    ).stdout.strip()
    mesh.submitter.until(lambda: mesh.worker.json("status")["upstream"]["jobs"], "run the job")
    mesh.submitter.run("job", "cancel", job)

    gone = mesh.fake.given_up.wait(20)
    mesh.fake.pause_after = None

    assert gone


def test_coveys_own_api_is_an_upstream(mesh: Mesh) -> None:
    mesh.submitter.until(
        lambda: "far" in mesh.submitter.json("peers")[0]["models"], "offer the worker's API"
    )
    before = len(mesh.fake.of("embeddings"))

    answer = mesh.run("embed", "far", stdin="a text")
    said = mesh.run("generate", "said", "--chat", "--max-tokens", "2", stdin="one two three")
    text = mesh.run("generate", "said", stdin="four five")

    assert answer["output"][0]["embedding"][0] == len("a text")
    assert answer["worker"] == mesh.submitter.json("id")["peer"]
    assert answer["execution"]["upstream_model"] == "vectors"
    assert said["output"] == [
        {"index": 0, "text": "ONE TWO ", "finish_reason": "length", "tokens": 2}
    ]
    assert said["worker"] == answer["worker"]
    assert [row["text"] for row in text["output"]] == ["FOUR FIVE "]
    assert mesh.fake.of("embeddings")[before:][-1]["input"] == ["a text"]


def test_models_of_an_upstream_that_is_down_leave_the_advert_and_come_back(mesh: Mesh) -> None:
    mesh.fake.faults["models"] = mesh.fake.faults["embeddings"] = lambda: error(503)
    mesh.submitter.run("run", "embed", "--model", "vectors", status=1, stdin="a text")
    mesh.submitter.until(lambda: mesh.offered() == set(), "hear that the models are gone")
    doctor = mesh.worker.run("doctor").stdout
    mesh.fake.faults.clear()
    mesh.submitter.until(lambda: mesh.offered() == MODELS, "hear that they are back")

    assert "is down: the upstream cannot answer now: status 503" in doctor
