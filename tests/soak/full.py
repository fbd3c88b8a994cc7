"""Fills the disks of a node and an aggregator while records are written: each says so and keeps
reading, nothing is acknowledged that is not on a disk, and both go on by themselves once there is
room. ``make soak`` runs it. Needs to mount a tmpfs in a namespace of its own.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.soak.records import PATIENCE_S, Pair
from tests.soak.replay import replayable
from tests.support import mounts
from tests.support.emitting import KIND, MODEL
from tests.support.machines import Machine, stopping

SIZE = "24m"
JOBS = 40


class Soak:
    """A pair, each with a small disk of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("n", "a"):
            (root / name).mkdir()
            options = ("-t", "tmpfs", "-o", f"size={SIZE}", "none")
            subprocess.run(["mount", *options, root / name], check=True)
        self.pair = Pair(root / "n" / "home", root / "a" / "home", random.Random(0))
        self.refused = ""

    def run(self) -> None:
        """Form the mesh, fill one disk after the other, and check what is left."""
        pair = self.pair
        with stopping(pair.node, pair.aggregator), closing(pair.emitters):
            pair.form()
            self.emit()
            self.fill_node()
            self.fill_aggregator()
            pair.check_complete()

    def emit(self) -> None:
        self.pair.emitters.submit(JOBS)
        self.pair.emitters.finish()

    def fill_node(self) -> None:
        """The node refuses work with a clear error, keeps answering, and goes on."""
        node = self.pair.node
        with self.staying_up(node):
            with filled(self.root / "n"):
                self.refused = node.until(self.refusal, "refuse a job")
                assert "full" in self.refused, self.refused
                assert "free space" in self.refused, self.refused
                assert len(node.json("records", "list")) > 0
                assert self.pair.status()["next_sequence"] > 0
                assert self.pair.status()["dropped_reports"] > 0, "no report was counted"
            self.emit()

    def refusal(self) -> str:
        """Run one job and return what it failed with; a few still find room in the last page."""
        return self.pair.node.run_any("run", KIND, "--model", MODEL, stdin="x").stderr

    def fill_aggregator(self) -> None:
        """The aggregator acknowledges nothing and keeps answering; then it catches up."""
        pair = self.pair
        with self.staying_up(pair.aggregator):
            output = pair.node.json("run", KIND, "--model", MODEL, stdin="x")["output_cid"]
            pair.aggregator.json("check")
            pair.node.until(pair.is_complete, "have everything acknowledged", PATIENCE_S)
            before = pair.acknowledged()
            assert pair.aggregator.json("lineage", output)["records"]
            with filled(self.root / "a"):
                self.emit()
                holds = pair.aggregator.json("status")["records"]
                pair.aggregator.json("check")  # has the node sign and send what it has
                assert pair.acknowledged() == before
                assert pair.aggregator.json("status")["records"] == holds > 0
                assert pair.aggregator.json("lineage", output)["records"]
            pair.await_acknowledged(before)

    @contextmanager
    def staying_up(self, machine: Machine) -> Iterator[None]:
        daemon = machine.daemon
        assert daemon is not None
        yield
        assert daemon.poll() is None, machine.log_tail()
        assert machine.daemon is daemon


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave no byte on a disk free until the block ends."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        chunk = 1 << 20
        while chunk:
            try:
                file.write(b"x" * chunk)
            except OSError:
                chunk //= 2
    try:
        yield
    finally:
        filler.unlink()


def main() -> None:
    if reason := mounts.why_not():
        print(f"full: left out, {reason}")
        return
    mounts.run_here("tests.soak.full")
    began = time.monotonic()
    with replayable("full", {}), tempfile.TemporaryDirectory(prefix="covey-") as root:
        soak = Soak(Path(root))
        try:
            soak.run()
        finally:
            for name in ("n", "a"):
                subprocess.run(["umount", "--lazy", Path(root) / name], check=False)
    print(f"both disks were full, nothing is missing: {soak.refused.strip()!r}", end=" ")
    print(f"({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
