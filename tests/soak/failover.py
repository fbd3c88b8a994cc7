"""A thousand promised jobs over four workers, of which one is killed and one frozen while a fifth
joins: each result is accepted once, and the records say what became of each attempt. ``make soak``
runs it; JOBS is a variable.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from node import requests
from node.runner.kinds import embed
from peer.control import ControlClient
from protocols.record import Record
from tests.soak.kills import MODEL, TOLERANCE, own_records, sentence
from tests.soak.replay import replayable, variables
from tests.support.machines import Machine, stopping

WORKERS = 4
JOBS = 1_000
ITEMS = 12  # sentences a job: more than its promise takes, so that jobs lie at workers
MOST_TIMES = (
    20  # as many jobs at most, while nobody was caught at work: on a busy machine few lie there
)
LATER = 3  # results of others, after which nothing of one that stands still is on its way
PATIENCE_S = 600.0


def is_live(row: dict[str, Any]) -> bool:
    return row["state"] == "running"


def texts(number: int) -> list[str]:
    return [f"{sentence(number)} Part {part}." for part in range(ITEMS)]


class Failover:
    """One submitter, four workers, and a fifth to come."""

    def __init__(self, root: Path, jobs: int = JOBS) -> None:
        self.least, self.most = jobs, jobs * MOST_TIMES
        self.is_enough = False
        """Whether the least will do: both workers were taken away."""
        self.submitter = Machine("submitter", root / "submitter")
        self.workers = [
            Machine(f"worker{number}", root / f"worker{number}") for number in range(WORKERS + 1)
        ]
        self.job_ids: list[str] = []
        self.records: list[Record] = []
        self.peers: dict[str, Machine] = {}
        self.gone: set[str] = set()
        """Those that were taken away while they had jobs."""

    def run(self) -> None:
        """Form the mesh, run the jobs while workers come and go, and check what is left."""
        *first, joining = self.workers
        with stopping(self.submitter, *self.workers), ThreadPoolExecutor(1) as client:
            self.submitter.run("init", "--role", "admitter,submitter")
            self.submitter.up()
            for worker in first:
                self.join(worker)
            self.submitter.until(lambda: self.seen() == WORKERS, "see four workers")
            submitting = client.submit(self.submit_all)  # jobs are done while others are promised
            self.when_done(self.least // 10)
            killed = self.freeze_at_work(first)
            killed.kill()
            self.when_done(self.least // 5)
            frozen = self.freeze_at_work([worker for worker in first if worker is not killed])
            self.is_enough = True
            try:
                self.join(joining)
                submitting.result()
                self.when_done(len(self.job_ids))
            finally:
                self.thaw(frozen)
            self.check_outputs()
        self.records = own_records(self.submitter)
        self.check_records()

    def freeze_at_work(self, workers: list[Machine]) -> Machine:
        """Stop a worker that has a job in hand, which only shows once it stands still."""
        peers = {peer: worker for peer, worker in self.peers.items() if worker in workers}
        while self.done() < self.most:
            at_work = [row["worker"] for row in self.rows() if is_live(row)]
            for peer in [each for each in at_work if each in peers][:1]:
                worker = peers[peer]
                assert worker.daemon is not None
                worker.daemon.send_signal(signal.SIGSTOP)
                had = self.in_hand(peer)
                # what it sent before it stopped is taken in before what others send later
                self.when_done(min(self.done() + LATER, self.most))
                if had & self.in_hand(peer):
                    self.gone.add(peer)
                    return worker
                self.thaw(worker)
        raise AssertionError("all jobs are done, and nobody was caught at work")

    def thaw(self, worker: Machine) -> None:
        assert worker.daemon is not None
        worker.daemon.send_signal(signal.SIGCONT)

    def in_hand(self, peer: str) -> set[str]:
        """Return the jobs that a worker has, as far as their submitter knows."""
        return {row["job_id"] for row in self.rows() if row["worker"] == peer and is_live(row)}

    def join(self, worker: Machine) -> None:
        worker.run("join", self.submitter.run("ticket", "--role", "worker").stdout.strip())
        worker.run("models", "add", MODEL)
        worker.up()
        self.peers[worker.json("id")["peer"]] = worker

    def seen(self) -> int:
        return sum(MODEL in row["models"] for row in self.submitter.json("peers"))

    def submit_all(self) -> None:
        with ControlClient(self.submitter.home / "control.sock", hint="") as control:
            for number in range(self.most):
                if self.is_enough and number >= self.least:
                    break
                content = embed.encode_input(texts(number))
                job = requests.JobRequest("embed", MODEL, content, ITEMS, timeout_s=PATIENCE_S)
                self.job_ids.append(requests.submit(control, job)["job_id"])

    def when_done(self, count: int) -> None:
        self.submitter.until(lambda: self.done() >= count, f"have {count} results", PATIENCE_S)

    def done(self) -> int:
        rows = self.rows()
        assert not [row for row in rows if row["state"] in ("failed", "expired")]
        return sum(row["state"] == "done" for row in rows)

    def rows(self) -> list[dict[str, Any]]:
        with ControlClient(self.submitter.home / "control.sock", hint="") as control:
            return control.get("/jobs", limit=10_000)

    def check_outputs(self) -> None:
        """Each job has the embedding of its own sentence."""
        sentences = "\n".join(texts(number)[0] for number in range(len(self.job_ids)))
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
        assert {r.attributes["worker"] for r in lost} >= self.gone, "both had jobs"
        latest = {r.attributes["job_id"]: r.attributes["fence"] for r in lost}
        fences = {r.attributes["job_id"]: r.attributes["fence"] for r in accepted}
        assert all(fences[job_id] > fence for job_id, fence in latest.items())

    def summary(self) -> str:
        shares = Counter(r.attributes["worker"][-6:] for r in self.of_kind("job.accepted"))
        reasons = Counter(r.attributes["reason"][:60] for r in self.of_kind("job.lost"))
        return f"accepted by worker: {dict(shares)}\nattempts lost: {dict(reasons)}"


def main() -> None:
    values = variables(JOBS=JOBS)
    jobs = values["JOBS"]
    began = time.monotonic()
    with replayable("failover", values), tempfile.TemporaryDirectory(prefix="covey-") as root:
        failover = Failover(Path(root), jobs)
        failover.run()
        print(failover.summary())
    took_s = time.monotonic() - began
    print(f"all {len(failover.job_ids)} results, each accepted once ({took_s:.0f} s)")


if __name__ == "__main__":
    main()
