"""Takes the power from a node and an aggregator again and again while records are written and while
they start, on disks that then lose, tear, zero, shuffle or garble whatever was not synced, names in
directories included. Nothing that a client was told of and nothing acknowledged may be missing, and
identity, boot counter and epoch go on. ``make soak`` runs it; ROUNDS, JOBS (a round) and SEED are
variables. Needs a kernel that lets it mount FUSE in a namespace of its own.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from peer.identity import Identity
from tests.soak.records import Pair
from tests.soak.replay import replayable, variables
from tests.support import mounts
from tests.support.disks import PowerDisk
from tests.support.emitting import MODEL
from tests.support.left import Left
from tests.support.machines import Machine, stopping

CHANGES_A_JOB_MAX = 2  # until the power goes while jobs are done
CHANGES_OF_START_MAX = 30  # until it goes while a daemon starts
PATIENCE_S = 3.0


@dataclass(frozen=True)
class Plan:
    """How often the power goes, and how many jobs are submitted each time."""

    rounds: int = 30
    jobs: int = 40
    seed: int = 0


class Soak:
    """A pair whose machines lose their power, each with a disk of its own."""

    def __init__(self, node: PowerDisk, aggregator: PowerDisk, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed)
        self.pair = Pair(node.path / "home", aggregator.path / "home", self.rng)
        self.disks = {"node": node, "aggregator": aggregator}
        self.boots: dict[str, int] = {}
        self.peers: dict[str, str] = {}
        self.losses: Counter[str] = Counter()
        self.acknowledged = 0

    def run(self) -> None:
        """Form the mesh, take the power as often as planned, and check what is left."""
        pair = self.pair
        machines = [pair.node, pair.aggregator]
        with stopping(*machines), closing(pair.emitters):
            self.form()
            for _ in range(self.plan.rounds):
                count = self.rng.choice((1, 1, 2))
                self.strike(self.rng.sample(machines, count))
            pair.emitters.finish()
            self.acknowledged = pair.check_complete()
        pair.check_node()

    def form(self) -> None:
        """Make the mesh; what a command has done stays done when the power goes at once."""
        pair = self.pair
        pair.node.run("init")
        pair.node.run("models", "add", MODEL)
        self.born(pair.node)
        pair.node.up()
        pair.aggregator.run("join", pair.ticket())
        self.born(pair.aggregator)
        pair.aggregator.up()
        pair.await_measured()
        self.note_boots()

    def born(self, machine: Machine) -> None:
        self.lose_power(machine)
        self.peers[machine.name] = machine.json("id")["peer"]

    def strike(self, victims: list[Machine]) -> None:
        """Take the power from one or both while records are written and acknowledged."""
        pair = self.pair
        before = pair.acknowledged()
        pair.emitters.submit(self.plan.jobs)
        pair.await_acknowledged(before)
        pair.emitters.submit(self.plan.jobs)
        promised = pair.acknowledged()
        for victim in victims:
            self.disks[victim.name].arm(self.rng.randint(0, CHANGES_A_JOB_MAX * self.plan.jobs))
        for victim in victims:
            self.disks[victim.name].await_off(PATIENCE_S)
            victim.kill()
        for victim in victims:
            self.lose_power(victim)
            self.check(victim, promised)
            if self.rng.random() < 0.5:
                self.fail_start(victim)
                self.check(victim, promised)
        for victim in victims:
            victim.up()
        self.note_boots()

    def lose_power(self, victim: Machine) -> None:
        disk = self.disks[victim.name]
        disk.cut()
        disk.boot(self.rng.getrandbits(32))
        self.losses[victim.name] += 1

    def fail_start(self, victim: Machine) -> None:
        """Take the power while it starts."""
        disk = self.disks[victim.name]
        disk.arm(self.rng.randint(0, CHANGES_OF_START_MAX))
        starting = victim.begin("up")
        disk.await_off(PATIENCE_S)
        starting.kill()
        starting.wait()
        self.lose_power(victim)

    def check(self, victim: Machine, promised: tuple[int, int]) -> None:
        """Look at a disk before anybody can give it anything back."""
        pair = self.pair
        is_node = victim is pair.node
        left = pair.check_node() if is_node else pair.check_aggregator(*promised)
        self.check_identity(victim, left)

    def check_identity(self, victim: Machine, left: Left) -> None:
        identity = Identity.load(victim.home)
        assert identity.peer_id == self.peers[victim.name]
        assert identity.membership is not None
        assert left.boot >= self.boots[victim.name], "the boot counter went back"

    def note_boots(self) -> None:
        for machine in (self.pair.node, self.pair.aggregator):
            self.boots[machine.name] = Identity.load(machine.home).boot

    def summary(self) -> str:
        """What happened, in words."""
        emitters = self.pair.emitters
        return (
            f"power lost {dict(self.losses)}, {len(emitters.told)} records told of, "
            f"{self.acknowledged} acknowledged, none missing; "
            f"jobs submitted again: {dict(emitters.retries)}"
        )


def soak(root: Path, plan: Plan) -> Soak:
    """Run a soak on two disks below ``root``."""
    with PowerDisk(root / "n") as node, PowerDisk(root / "a") as aggregator:
        done = Soak(node, aggregator, plan)
        done.run()
    return done


def main() -> None:
    if reason := mounts.why_not(fuse=True):
        print(f"power: left out, {reason}")
        return
    mounts.run_here("tests.soak.power")
    values = variables(ROUNDS=30, JOBS=40, SEED=0)
    began = time.monotonic()
    with replayable("power", values), tempfile.TemporaryDirectory(prefix="covey-") as root:
        done = soak(Path(root), Plan(*values.values()))
    print(f"{done.summary()} ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
