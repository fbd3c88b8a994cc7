"""Figures ``failover_…_s``: a worker is killed, or falls silent, while it works on a job; how long
until the result comes from another one, which does the whole job again. The baseline is the same
job undisturbed.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peer.control import ControlClient
from tests.bench.figure import Figure, figure
from tests.bench.mesh import TRY_EVERY_S, start
from tests.bench.processes import Child
from tests.bench.texts import sentences
from tests.support.machines import Machine

ROUNDS = 3
TEXTS = 64  # most of a second of computing, so that there is a midst
WORK = {"kind": "embed", "model": "all-minilm-l6-v2"}
JOB = {"do": "jobs", "concurrency": 1, "texts": [sentences(TEXTS, seed=1)], **WORK}
POLL_S = 0.01
SIGNALS = {"failover_silent_s": signal.SIGSTOP, "failover_reset_s": signal.SIGKILL}


class Mesh:
    """A submitter and two workers, each a machine with its node."""

    def __init__(self, root: Path) -> None:
        self.submitter = Machine("submitter", root / "submitter")
        self.workers = [Machine(name, root / name) for name in ("one", "other")]
        self.nodes: dict[str, Child] = {}
        """The running nodes by their machine's name."""

    @property
    def client(self) -> Child:
        """The submitter's node."""
        return self.nodes[self.submitter.name]

    def form(self) -> None:
        """Have both workers join and start."""
        self.submitter.run("init", "--role", "admitter,submitter")
        self.start(self.submitter)
        for worker in self.workers:
            worker.run("join", self.submitter.run("ticket", "--role", "worker").stdout.strip())
            worker.run("models", "add", WORK["model"])
            self.start(worker)

    def start(self, machine: Machine) -> None:
        """Start a node, and return when it has measured its hardware, which takes CPU for seconds
        at the first start.
        """
        self.nodes[machine.name] = start(machine)
        file = machine.home / "hardware.json"
        machine.until(file.exists, "measure")

    def warm(self) -> None:
        """Have every worker do a small job, one that was killed after a new start, so that it is
        connected and its model in memory.
        """
        for worker in self.workers:
            if worker.name not in self.nodes:
                self.start(worker)
            peer = self.nodes[worker.name].ready["peer"]
            self.client.ask(do="try", every_s=TRY_EVERY_S, peer=peer, **WORK)

    def working(self) -> Machine:
        """Return the worker that has the job, once one has."""
        while True:
            for worker in self.workers:
                if any(runner["state"] == "working" for runner in _status(worker)["runners"]):
                    return worker
            time.sleep(POLL_S)

    def close(self) -> None:
        """Stop every node."""
        for node in self.nodes.values():
            node.close()


def figures() -> Iterator[Figure]:
    """Measure both ways to go, with workers that have the model in memory."""
    root = Path(tempfile.mkdtemp(prefix="covey-bench-"))
    mesh = Mesh(root)
    try:
        mesh.form()
        for name, sign in SIGNALS.items():
            rounds = [_round(mesh, sign) for _ in range(ROUNDS)]
            failed_s, alone_s = zip(*rounds, strict=True)
            yield figure(
                name,
                "s",
                failed_s,
                n=ROUNDS,
                baseline="the same job undisturbed",
                baseline_rounds=alone_s,
            )
    finally:
        mesh.close()
        shutil.rmtree(root)


def _round(mesh: Mesh, sign: signal.Signals) -> tuple[float, float]:
    """Return the seconds from the signal to the result, and those of a job undisturbed."""
    mesh.warm()
    alone_s = mesh.client.ask(**JOB)["wall_s"]
    mesh.client.tell(**JOB)
    worker = mesh.working()
    node = mesh.nodes[worker.name]
    os.kill(node.pid, sign)
    began = time.monotonic()
    try:
        answer = mesh.client.answer()
        failed_s = time.monotonic() - began
    finally:
        os.kill(node.pid, signal.SIGCONT)  # one that was killed waits for us to take notice
    if answer["attempts"] != 2:
        raise RuntimeError(f"the job took {answer['attempts']} attempts, not 2")
    if sign is signal.SIGKILL:
        mesh.nodes.pop(worker.name).close()
    return failed_s, alone_s


def _status(machine: Machine) -> dict[str, Any]:
    with ControlClient(machine.home / "control.sock", hint="") as control:
        return control.get("/status")
