"""Generation through the mesh, with the installed commands and the weights of SmolLM2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest

from node.client import connect_sync
from tests.support.machines import Machine, stopping

pytestmark = pytest.mark.e2e

MODEL = "smollm2"
QUESTION = "What is the capital of France?\n"
RUN = ("run", "generate", "--model", MODEL)


@dataclass
class Mesh:
    submitter: Machine
    worker: Machine


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    root = Path(mkdtemp(prefix="covey-"))
    submitter, worker = (Machine(name, root / name) for name in ("submitter", "worker"))
    with stopping(submitter, worker):
        submitter.run("init", "--role", "admitter,submitter")
        submitter.up()
        ticket = submitter.run("ticket", "--role", "worker").stdout.strip()
        worker.run("join", ticket)
        worker.run("models", "add", MODEL)
        worker.up()
        submitter.until(lambda: sees_worker(submitter), "see the worker")
        yield Mesh(submitter, worker)


def sees_worker(machine: Machine) -> bool:
    return any(MODEL in row["models"] for row in machine.json("peers"))


def test_another_peer_answers_a_question(mesh: Mesh) -> None:
    printed = mesh.submitter.run(*RUN, "--chat", "--max-tokens", "32", stdin=QUESTION).stdout
    told = mesh.submitter.json(*RUN, "--max-tokens", "8", "--precision", "int4", stdin="One two")

    (answer,) = [json.loads(line) for line in printed.splitlines()]
    assert "Paris" in answer.pop("text")
    assert answer == {"index": 0, "finish_reason": "stop", "tokens": 8}
    assert told["worker"] == mesh.worker.json("id")["peer"]
    assert told["execution"]["precision"] == "int4"
    assert told["execution"]["new_tokens"] == told["output"][0]["tokens"] == 8


def test_chats_and_prompts_come_from_json_lines_and_programs(mesh: Mesh, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    lines = [json.dumps({"messages": messages}), json.dumps({"text": "1, 2, 3,"})]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    chance = ("--temperature", "0.8", "--top-p", "0.9", "--seed", "4", "--max-tokens", "12")
    wanted = {"temperature": 0.8, "top_p": 0.9, "seed": 4, "max_tokens": 12}

    from_file = mesh.submitter.json(*RUN, "--input", str(tmp_path / "in.jsonl"), *chance)
    with connect_sync(mesh.submitter.home) as covey:
        job = covey.submit("generate", model=MODEL, input=[messages, "1, 2, 3,"], **wanted)
        parts = list(job)
        rows = list(job.result().rows())

    assert rows == from_file["output"]
    assert [row["index"] for row in rows] == [0, 1]
    assert "".join(part["text"] for part in parts if part["index"] == 0) == rows[0]["text"]


def test_a_parameter_that_cannot_be_is_refused_in_one_line(mesh: Mesh) -> None:
    done = mesh.submitter.run(*RUN, "--temperature", "nan", stdin=QUESTION, status=2)

    assert done.stdout == ""
    assert "temperature" in done.stderr.splitlines()[0]


def test_a_prompt_longer_than_the_context_fails_at_the_worker_and_says_so(mesh: Mesh) -> None:
    done = mesh.submitter.run(*RUN, stdin="word " * 9_000, status=1)

    assert "the model's context of 8192 takes 1 to 8191" in done.stderr.splitlines()[0]


def test_parameters_of_generate_are_refused_for_another_kind(mesh: Mesh) -> None:
    options = ("run", "embed", "--model", MODEL, "--seed", "1")

    done = mesh.submitter.run(*options, stdin=QUESTION, status=2)

    assert "No such option '--seed'" in done.stderr.splitlines()[0]
