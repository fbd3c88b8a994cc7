"""`covey job`: what was promised is done, although the submitter is killed in the midst of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from node import requests
from node.runner.kinds import embed
from peer.control import ControlClient
from tests.soak.kills import own_records
from tests.support.machines import Machine, stopping

pytestmark = pytest.mark.e2e

MODEL = "all-minilm-l6-v2"
JOBS = 100


@contextmanager
def a_mesh(root: Path) -> Iterator[tuple[Machine, Machine]]:
    """A submitter whose node runs, and a worker that is a member and down."""
    submitter, worker = (Machine(name, root / name) for name in ("submitter", "worker"))
    with stopping(submitter, worker):
        submitter.run("init", "--role", "admitter,submitter")
        submitter.up()
        worker.run("join", submitter.run("ticket", "--role", "worker").stdout.strip())
        worker.run("models", "add", MODEL)
        yield submitter, worker


def submit(machine: Machine, number: int) -> str:
    content = embed.encode_input([f"Sentence number {number}."])
    job = requests.JobRequest(kind="embed", model=MODEL, input=content, items=1, timeout_s=600)
    with asking(machine) as control:
        return requests.submit(control, job)["job_id"]


def asking(machine: Machine) -> ControlClient:
    return ControlClient(machine.home / "control.sock", hint="")


def test_a_hundred_jobs_survive_the_kill_of_their_submitter(root: Path) -> None:
    with a_mesh(root) as (submitter, worker):
        job_ids = [submit(submitter, number) for number in range(JOBS)]
        waiting = submitter.begin("job", "wait", job_ids[-1])
        worker.up()
        # those that run are over in milliseconds: between the first result and the last one
        submitter.until(lambda: states(submitter)["done"] > 0, "have the first results")
        submitter.kill()
        submitter.up()
        assert waiting.wait(timeout=60) == 0
        outputs = [
            json.loads(submitter.run("job", "result", job_id).stdout)["embedding"]
            for job_id in (job_ids[0], job_ids[-1])
        ]
        submitter.until(lambda: states(submitter)["done"] == JOBS, "have every result")
        with asking(submitter) as control:
            logs = [control.get(f"/jobs/{job_id}/log") for job_id in job_ids]

    accepted = Counter(
        record.attributes["job_id"].hex()
        for record in own_records(submitter)
        if record.kind == "job.accepted"
    )
    assert accepted == Counter(job_ids)
    assert outputs[0] != outputs[1]
    assert any(step["what"] == "resumed after a restart" for log in logs for step in log)


def states(machine: Machine) -> Counter[str]:
    with asking(machine) as control:
        return Counter(row["state"] for row in control.get("/jobs", limit=1_000))


def test_the_commands_tell_what_a_job_waits_for_why_it_went_where_and_how_it_ended(
    root: Path,
) -> None:
    with a_mesh(root) as (submitter, worker):
        arguments = ("embed", "--model", MODEL, "--job-id", "ab" * 16)
        submitted = submitter.run("job", "submit", *arguments, stdin="one\ntwo\n")
        job_id = submitted.stdout.strip()
        again = submitter.json("job", "submit", *arguments, stdin="one\ntwo\n")
        submitter.until(lambda: submitter.json("job", "list")[0]["waits_for"], "say what is amiss")
        waiting = submitter.json("job", "show", job_id)
        doomed = submitter.run(
            "job", "submit", "embed", "--model", "none", stdin="x"
        ).stdout.strip()
        cancelled = submitter.json("job", "cancel", doomed)
        revived = submitter.json(
            "job", "submit", "embed", "--model", "none", "--job-id", doomed, stdin="x"
        )
        submitter.run("job", "cancel", doomed)
        worker.up()
        waited = submitter.json("job", "wait", job_id)
        target = root / "vectors.npy"
        submitter.run("job", "result", job_id, "--output", str(target))
        why = submitter.json("job", "why", job_id)
        log = [step["what"] for step in submitter.json("job", "logs", job_id)]
        (row,) = [row for row in submitter.json("job", "list") if row["job_id"] == job_id]
        done = submitter.run("job", "submit", *arguments, stdin="one\ntwo\n")
        run = submitter.json("run", *arguments, stdin="one\ntwo\n")
        other = submitter.json("run", "embed", "--model", MODEL, stdin="one\n")["job_id"]
        not_kept = submitter.run("job", "show", other, status=1)
        misused = submitter.run(
            "job", "submit", "embed", "--model", MODEL, "--peer", "nobody", stdin="x", status=2
        )
        failed = submitter.run("job", "wait", doomed, status=1)
        peer = worker.json("id")["peer"]

    assert "nobody can take it now: no worker" in submitted.stderr
    assert (again["job_id"], again["is_new"], again["is_tried_again"]) == (job_id, False, False)
    assert waiting["state"] == "waiting"
    assert "no worker" in waiting["waits_for"]
    assert (waited["worker"], waited["items"]) == (peer, 2)
    assert target.stat().st_size > 2 * 384 * 4
    assert [(row["peer"], row["fits"]) for row in why["candidates"]] == [(peer, True)]
    assert "its result was taken" in why["candidates"][0]["answer"]
    assert cancelled["state"] == "cancelled"
    assert (revived["is_new"], revived["is_tried_again"]) == (False, True)
    assert (log[0], log[-1]) == ("submitted", "ended")
    assert "waits" in log
    assert (row["items_done"], row["attempts"]) == (2, 1)
    assert "done already" in done.stderr
    assert run["record_cid"] == waited["record_cid"], "it was not computed again"
    assert "is not kept" in not_kept.stderr
    assert "not a peer id" in misused.stderr
    assert "was cancelled" in failed.stderr


def test_a_job_whose_worker_is_killed_goes_on_when_that_is_back(root: Path) -> None:
    with a_mesh(root) as (submitter, worker):
        worker.up()
        sentences = "".join(f"A sentence about the number {number}.\n" for number in range(1_000))
        job_id = submitter.run(
            "job", "submit", "embed", "--model", MODEL, stdin=sentences
        ).stdout.strip()
        submitter.until(lambda: shown(submitter, job_id)["items_done"], "show items done")
        running = shown(submitter, job_id)
        worker.kill()
        submitter.until(lambda: shown(submitter, job_id)["waits_for"], "wait for the worker")
        lost = shown(submitter, job_id)
        submitter.kill()
        submitter.up()
        worker.up()
        waited = submitter.json("job", "wait", job_id)
        log = [step["what"] for step in submitter.json("job", "logs", job_id)]
        peer = worker.json("id")["peer"]

    assert (running["state"], running["worker"], running["attempts"]) == ("running", peer, 1)
    assert (lost["state"], lost["attempts"]) == ("waiting", 1)
    assert (waited["items"], waited["attempts"]) == (1_000, 2)
    assert log.index("submitted") < log.index("lost") < log.index("resumed after a restart")


def shown(machine: Machine, job_id: str) -> dict[str, Any]:
    with asking(machine) as control:
        return control.get(f"/jobs/{job_id}")
