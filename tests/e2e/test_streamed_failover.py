"""A streamed answer whose worker is killed in its midst comes whole, once, and as if nothing had
happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from node.client import connect_sync
from peer.control import ControlClient
from tests.support.machines import Machine, free_port, stopping

pytestmark = pytest.mark.e2e

MODEL = "smollm2"
TOKENS = 80  # a second or more: enough to find out in its midst who is at work
ASKED: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me a story about a fox and a crow."}],
    "max_tokens": TOKENS,
}
GREEDY: dict[str, Any] = {"temperature": 0}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 7}


class Mesh:
    """A submitter whose API is on, and two workers that compute alike."""

    def __init__(self, root: Path) -> None:
        options = {"COVEY_API_ENABLED": "true", "COVEY_API_PORT": str(free_port())}
        self.submitter = Machine("submitter", root / "submitter", options=options)
        self.workers = [Machine(name, root / name) for name in ("one", "other")]

    def form(self) -> None:
        """Have both workers join, start and be known."""
        self.submitter.run("init", "--role", "admitter,submitter")
        self.submitter.up()
        for worker in self.workers:
            worker.run("join", self.submitter.run("ticket", "--role", "worker").stdout.strip())
            worker.run("models", "add", MODEL)
            worker.up()
        self.submitter.until(lambda: self.offers == 2, "hear of both workers")

    @property
    def offers(self) -> int:
        with connect_sync(self.submitter.home) as covey:
            return sum(MODEL in peer["models"] for peer in covey.peers())

    def kill_working(self) -> None:
        """Kill the worker that has the job."""
        (self.killed,) = [worker for worker in self.workers if is_working(worker)]
        self.killed.kill()

    def restore(self) -> None:
        """Start the killed worker again."""
        self.killed.up()
        self.submitter.until(lambda: self.offers == 2, "hear of the worker again")


def is_working(machine: Machine) -> bool:
    with ControlClient(machine.home / "control.sock", hint="") as control:
        return any(runner["jobs"] for runner in control.get("/status")["runners"])


@pytest.fixture
def mesh(root: Path) -> Iterator[Mesh]:
    mesh = Mesh(root)
    with stopping(mesh.submitter, *mesh.workers):
        mesh.form()
        yield mesh


def client_of(machine: Machine) -> openai.OpenAI:
    api = machine.json("status")["api"]
    token = Path(api["token_file"]).read_text().strip()
    return openai.OpenAI(base_url=api["url"], api_key=token, max_retries=0)


def test_a_killed_worker_leaves_no_trace_in_the_text(mesh: Mesh) -> None:
    with client_of(mesh.submitter) as client:
        undisturbed = [text_of(client, wanted, lambda: None) for wanted in (GREEDY, SAMPLED)]
        disturbed = [text_of(client, GREEDY, mesh.kill_working)]
        mesh.restore()
        disturbed.append(text_of(client, SAMPLED, mesh.kill_working))

    assert disturbed == undisturbed
    assert undisturbed[0] != undisturbed[1]
    lost = mesh.submitter.json("records", "list", "--kind", "job.lost")
    accepted = mesh.submitter.json("records", "list", "--kind", "job.accepted")
    assert (len(lost), len(accepted)) == (2, 4)


def text_of(client: openai.OpenAI, wanted: dict[str, Any], midway: Callable[[], None]) -> str:
    """Return a streamed answer; after its third piece of text, ``midway`` happens."""
    parts: list[str] = []
    reasons: list[str | None] = []
    for chunk in client.chat.completions.create(**ASKED, **wanted, stream=True):
        reasons.append(chunk.choices[0].finish_reason)
        if text := chunk.choices[0].delta.content:
            parts.append(text)
            if len(parts) == 3:
                midway()
    assert reasons[-1] == "length"
    return "".join(parts)
