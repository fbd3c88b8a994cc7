"""A mesh of two machines for the bench: one submits, the other works."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import Child
from tests.support.machines import Machine

TRY_EVERY_S = 0.05


@dataclass
class BenchMesh:
    """``submitter`` and ``worker`` run; their homes stay when they are closed."""

    submitter_machine: Machine
    worker_machine: Machine
    submitter: Child
    worker: Child | None = None

    def start_worker(self) -> Child:
        """Start the worker's node under the bench's command."""
        self.worker = start(self.worker_machine)
        return self.worker

    def await_measured(self) -> None:
        """Wait until no machine measures its hardware any more, which takes seconds of CPU."""
        for machine in (self.submitter_machine, self.worker_machine):
            machine.until((machine.home / "hardware.json").exists, "measure its hardware")

    def close(self) -> None:
        """Stop both nodes."""
        for node in (self.worker, self.submitter):
            if node is not None:
                node.close()


def start(machine: Machine) -> Child:
    """Start a machine's node under the bench's command."""
    return Child("tests.bench.node", machine.environment, machine.log)


@contextmanager
def formed(*models: str) -> Iterator[BenchMesh]:
    """Form a mesh whose second machine has ``models``; its node is not started yet."""
    root = Path(tempfile.mkdtemp(prefix="covey-bench-"))
    first, second = (Machine(name, root / name) for name in ("submitter", "worker"))
    first.run("init", "--role", "admitter,submitter")
    mesh = BenchMesh(first, second, start(first))
    try:
        ticket = first.run("ticket", "--role", "worker,submitter", "--ttl", "10m").stdout.strip()
        second.run("join", ticket)
        for model in models:
            second.run("models", "add", model)
        yield mesh
    finally:
        mesh.close()
        shutil.rmtree(root)
