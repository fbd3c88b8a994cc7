"""A thousand promised jobs over four workers, of which one is killed and one frozen while a fifth
joins: each result is accepted once, and the records say what became of each attempt. ``make soak``
runs it; JOBS is a variable.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from node import requests
from node.runner.kinds import embed
from peer.control import ControlClient
from protocols.record import Record
from tests.soak.kills import MODEL, TOLERANCE, own_records, sentence
from tests.support.machines import Machine, stopping

WORKERS = 4
JOBS = 1_000
ITEMS = 12  # sentences a job: more than its promise takes, so that who goes has some in hand
PATIENCE_S = 600.0


def texts(number: int) -> list[str]:
    return [f"{sentence(number)} Part {part}." for part in range(ITEMS)]


class Failover:
    """One submitter, four workers, and a fifth to come."""

    def __init__(self, root: Path, jobs: int = JOBS) -> None:
        self.jobs = jobs
        self.submitter = Machine("submitter", root / "submitter")
        self.workers = [
            Machine(f"worker{number}", root / f"worker{number}") for number in range(WORKERS + 1)
        ]
        self.job_ids: list[str] = []
        self.records: list[Record] = []

    def run(self) -> None:
        """Form the mesh, run the jobs while workers come and go, and check what is left."""
        *first, joining = self.workers
        killed, frozen = first[0], first[1]
        with stopping(self.submitter, *self.workers), ThreadPoolExecutor(1) as client:
            self.submitter.run("init", "--role", "admitter,submitter")
            self.submitter.up()
            for worker in first:
                self.join(worker)
            self.submitter.until(lambda: self.seen() == WORKERS, "see four workers")
            submitting = client.submit(self.submit_all)  # jobs are done while others are promised
            self.when_done(self.jobs // 10)
            killed.kill()
            self.when_done(self.jobs // 5)
            assert frozen.daemon is not None
            frozen.daemon.send_signal(signal.SIGSTOP)
            try:
                self.join(joining)
                submitting.result()
                self.when_done(self.jobs)
            finally:
                frozen.daemon.send_signal(signal.SIGCONT)
            self.check_outputs()
        self.records = own_records(self.submitter)
        self.check_records()

    def join(self, worker: Machine) -> None:
        worker.run("join", self.submitter.run("ticket", "--role", "worker").stdout.strip())
        worker.run("models", "add", MODEL)
        worker.up()

    def seen(self) -> int:
        return sum(MODEL in row["models"] for row in self.submitter.json("peers"))

    def submit_all(self) -> None:
        with ControlClient(self.submitter.home / "control.sock", hint="") as control:
            for number in range(self.jobs):
                content = embed.encode_input(texts(number))
                job = requests.JobRequest("embed", MODEL, content, ITEMS, timeout_s=PATIENCE_S)
                self.job_ids.append(requests.submit(control, job)["job_id"])

    def when_done(self, count: int) -> None:
        self.submitter.until(lambda: self.done() >= count, f"have {count} results", PATIENCE_S)

    def done(self) -> int:
        with ControlClient(self.submitter.home / "control.sock", hint="") as control:
            rows = control.get("/jobs", limit=10_000)
        assert not [row for row in rows if row["state"] in ("failed", "expired")]
        return sum(row["state"] == "done" for row in rows)

    def check_outputs(self) -> None:
        """Each job has the embedding of its own sentence."""
        sentences = "\n".join(texts(number)[0] for number in range(self.jobs))
        rows = self.submitter.json("run", "embed", "--model", MODEL, stdin=sentences)["output"]
        with ControlClient(self.submitter.home / "control.sock", hint="") as control:
            for number, (job_id, row) in enumerate(zip(self.job_ids, rows, strict=True)):
                got = embed.array(requests.result(control, job_id, lambda _: None).output)
                assert len(got) == ITEMS
                assert np.allclose(got[0], row["embedding"], atol=TOLERANCE), f"job {number}"

    def of_kind(self, kind: str) -> list[Record]:
        wanted = set(self.job_ids)
        return [
            r for r in self.records if r.kind == kind and r.attributes["job_id"].hex() in wanted
        ]

    def check_records(self) -> None:
        """Every job was accepted once, under the fence that follows its lost attempts."""
        accepted = self.of_kind("job.accepted")
        assert Counter(r.attributes["job_id"].hex() for r in accepted) == Counter(self.job_ids)
        lost = self.of_kind("job.lost")
        assert lost, "the killed and the frozen worker had jobs"
        latest = {r.attributes["job_id"]: r.attributes["fence"] for r in lost}
        fences = {r.attributes["job_id"]: r.attributes["fence"] for r in accepted}
        assert all(fences[job_id] > fence for job_id, fence in latest.items())

    def summary(self) -> str:
        shares = Counter(r.attributes["worker"][-6:] for r in self.of_kind("job.accepted"))
        reasons = Counter(r.attributes["reason"][:60] for r in self.of_kind("job.lost"))
        return f"accepted by worker: {dict(shares)}\nattempts lost: {dict(reasons)}"


def main() -> None:
    jobs = int(os.environ.get("JOBS", JOBS))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="covey-") as root:
        failover = Failover(Path(root), jobs)
        failover.run()
        print(failover.summary())
    print(f"all {jobs} results, each accepted once ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
