"""Kills every kind of process again and again while jobs run, and counts what is left: every result
once, every record everywhere. ``make soak`` runs it; ROUNDS, JOBS and SEED are variables.

The daemons are started again by ``deploy/keep-running.sh``, as an operator's supervisor would. The
clients do what a client may: submit again, with the job id that they chose, until there is an
answer.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from node import requests
from node.runner.kinds import embed
from peer.control import ControlClient
from peer.journal import Journal
from protocols.errors import CoveyError
from protocols.journal import Entry, RecordBody
from protocols.record import Record
from tests.soak.replay import replayable, variables
from tests.support.machines import Machine, stopping

MODEL = "all-minilm-l6-v2"
CLIENTS = 6
RETRY_S = 0.3
PATIENCE_S = 300.0
TOLERANCE = 1e-4  # outputs differ by 1.5e-7 between batch shapes


@dataclass
class Plan:
    """How many jobs, and how often each kind of process is killed meanwhile."""

    jobs: int = 200
    rounds: int = 10
    seed: int = 0


@dataclass
class Tally:
    """What the clients and the killer saw."""

    kills: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    outputs: dict[int, bytes] = field(default_factory=dict)


class Soak:
    """A mesh of three nodes and an aggregator under fire."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.plan = plan
        self.tally = Tally()
        self.rng = random.Random(plan.seed)
        self.job_ids = [self.rng.randbytes(16).hex() for _ in range(plan.jobs)]
        self.submitter, *self.workers = (
            self._machine(root, name) for name in ("submitter", "worker1", "worker2")
        )
        self.aggregator = self._machine(root, "aggregator", "covey-aggregator")
        self._released = 0
        self._moved = threading.Condition()
        self._is_broken = False

    def _machine(self, root: Path, name: str, command: str = "covey") -> Machine:
        options = {"RESTART_DELAY_S": "0.1"}
        return Machine(name, root / name, command, options, is_kept_running=True)

    @property
    def machines(self) -> list[Machine]:
        return [self.submitter, *self.workers, self.aggregator]

    def run(self) -> None:
        """Form the mesh, run the jobs under kills, and check what is left."""
        with stopping(*self.machines):
            self.form_a_mesh()
            with ThreadPoolExecutor(CLIENTS + 1) as threads:
                killing = threads.submit(self.kill_everything)
                jobs = [threads.submit(self.one_job, number) for number in range(self.plan.jobs)]
                killing.result()
                for job in jobs:
                    job.result()
            self.check_outputs()
            self.aggregator.until(self.nothing_is_missing, "hold everything", PATIENCE_S)
        self.check_acceptances()
        assert self.aggregator.json("check")["ok"]

    def form_a_mesh(self) -> None:
        self.submitter.run("init", "--role", "admitter,submitter")
        self.submitter.up()
        for machine, roles in (
            (self.workers[0], "worker"),
            (self.workers[1], "worker"),
            (self.aggregator, "aggregator"),
        ):
            ticket = self.submitter.run("ticket", "--role", roles).stdout.strip()
            machine.run("join", ticket)
            if machine.command == "covey":
                machine.run("models", "add", MODEL)
            machine.up()
        self.submitter.until(self._workers_are_seen, "see both workers")

    def _workers_are_seen(self) -> bool:
        rows = self.submitter.json("peers")
        return sum(MODEL in row["models"] for row in rows) == len(self.workers)

    # The clients

    def one_job(self, number: int) -> None:
        """Submit a job until its result is here. It starts when enough kills have been done, so
        that jobs run at each of them.
        """
        with self._moved:
            self._moved.wait_for(lambda: number < self._released)
        job = requests.JobRequest(
            kind="embed",
            model=MODEL,
            input=embed.encode_input([sentence(number)]),
            items=1,
            job_id=self.job_ids[number],
        )
        deadline = time.monotonic() + PATIENCE_S
        while number not in self.tally.outputs:
            assert not self._is_broken, "the killer failed"
            assert time.monotonic() < deadline, f"job {number} has no result"
            try:
                with ControlClient(self.submitter.home / "control.sock", hint="") as control:
                    outcome = requests.run(control, job, lambda _: None)
            except CoveyError as error:
                self.tally.retries[error.code] += 1
                time.sleep(RETRY_S)
            else:
                self.tally.outputs[number] = outcome.output

    # The killer

    def kill_everything(self) -> None:
        """Kill each kind of process once a round, in an order that the seed decides."""
        kinds: dict[str, Callable[[], None]] = {
            "submitter": lambda: self._kill(self.submitter),
            "worker": lambda: self._kill(self.rng.choice(self.workers)),
            "aggregator": lambda: self._kill(self.aggregator),
            "runner": self._kill_runner,
        }
        schedule = [
            kind for _ in range(self.plan.rounds) for kind in self.rng.sample(list(kinds), 4)
        ]
        try:
            for number, kind in enumerate(schedule):
                self._release(self.plan.jobs * (number + 1) // (len(schedule) + 1))
                time.sleep(self.rng.uniform(0.05, 1.0))
                kinds[kind]()
                self.tally.kills[kind] += 1
        except BaseException:
            self._is_broken = True
            raise
        finally:
            self._release(self.plan.jobs)

    def _release(self, number: int) -> None:
        with self._moved:
            self._released = max(self._released, number)
            self._moved.notify_all()

    def _kill(self, machine: Machine) -> None:
        """Kill a daemon and wait until its supervisor has it up again."""
        machine.kill()
        machine.until(machine.answers, "come up again")

    def _kill_runner(self) -> None:
        """Kill a runner, at whichever worker has one now."""
        pid = self.submitter.until(self._a_runner, "have a runner at some worker")
        os.kill(pid, signal.SIGKILL)

    def _a_runner(self) -> int | None:
        for worker in self.rng.sample(self.workers, len(self.workers)):
            try:
                with ControlClient(worker.home / "control.sock", hint="") as control:
                    pids = [runner["pid"] for runner in control.get("/status")["runners"]]
            except CoveyError:
                continue
            if any(pids):
                return next(pid for pid in pids if pid)
        return None

    # What is left

    def check_outputs(self) -> None:
        """Each job has the embedding of its own sentence."""
        sentences = "\n".join(map(sentence, range(self.plan.jobs)))
        rows = self.submitter.json("run", "embed", "--model", MODEL, stdin=sentences)["output"]
        for number, row in enumerate(rows):
            got = embed.array(self.tally.outputs[number])[0]
            assert np.allclose(got, row["embedding"], atol=TOLERANCE), f"job {number} has another's"

    def nothing_is_missing(self) -> bool:
        """The aggregator holds each node's feed to its end, and its check finds nothing."""
        check = self.aggregator.run_any("check", "--json")
        if check.returncode != 0:
            return False
        feeds = self.aggregator.json("status")["feeds"]
        held = {feed["peer"]: (feed["epoch"], feed["next_sequence"]) for feed in feeds}
        ends = [node.json("status") for node in (self.submitter, *self.workers)]
        return all(held.get(e["peer"]) == (e["epoch"], e["next_sequence"]) for e in ends)

    def check_acceptances(self) -> None:
        """The submitter's journal has one acceptance of each job, though its clients retried."""
        accepted = Counter(
            record.attributes["job_id"].hex()
            for record in own_records(self.submitter)
            if record.kind == "job.accepted"
        )
        twice = [job_id for job_id, count in accepted.items() if count > 1]
        assert not twice, f"accepted twice: {twice}"
        assert not set(self.job_ids) - set(accepted), "a result came without its acceptance"


def sentence(number: int) -> str:
    return f"Sentence number {number} is about {'cats' if number % 2 else 'engines'}."


def own_records(machine: Machine) -> list[Record]:
    journal = Journal.open(machine.home / "journal")
    try:
        return [
            Record.decode(RecordBody.decode(body).record)
            for _, _, kind, body in journal.scan()
            if kind is Entry.RECORD
        ]
    finally:
        journal.close()


def main() -> None:
    values = variables(JOBS=200, ROUNDS=10, SEED=0)
    plan = Plan(*values.values())
    began = time.monotonic()
    with replayable("kills", values), tempfile.TemporaryDirectory(prefix="covey-") as root:
        soak = Soak(Path(root), plan)
        soak.run()
    print(f"killed: {dict(soak.tally.kills)}")
    print(f"retried by clients: {dict(soak.tally.retries)}")
    print(f"all {plan.jobs} results, each accepted once, and nothing is missing", end=" ")
    print(f"({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
