"""Kills a node and an aggregator again and again while records are written as fast as it goes, and
looks at what each left on its disk before anybody can give it anything back: nothing that a client
was told of is missing at the node, nothing acknowledged is missing at the aggregator, and no bundle
is torn. ``make soak`` runs it; ROUNDS, JOBS (a kill) and SEED are variables.
"""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer.control import ControlClient
from peer.identity import Identity
from tests.soak.replay import replayable, variables
from tests.support.emitting import MODEL, Emitters
from tests.support.left import Left, left_by
from tests.support.machines import Machine, stopping

PATIENCE_S = 120.0
PAUSE_S_MAX = 0.4


@dataclass(frozen=True)
class Plan:
    """How often each of the two is killed, and how many jobs are submitted at each kill."""

    rounds: int = 50
    jobs: int = 40
    seed: int = 0


class Pair:
    """A node that writes records and an aggregator that takes them in, with homes of these."""

    def __init__(self, node: Path, aggregator: Path, rng: random.Random) -> None:
        self.node = Machine("node", node)
        self.aggregator = Machine("aggregator", aggregator, "covey-aggregator")
        self.emitters = Emitters(self.node, rng)
        self.feed = b""
        """The node's key, once it is up."""

    def form(self) -> None:
        """Make the mesh of the two; both are up."""
        self.node.run("init")
        self.node.run("models", "add", MODEL)
        self.node.up()
        self.aggregator.run("join", self.ticket())
        self.aggregator.up()
        self.await_measured()

    def ticket(self) -> str:
        """Let an aggregator into the mesh of the node, which is up."""
        self.feed = Identity.load(self.node.home).key.public
        return self.node.run("ticket", "--role", "aggregator").stdout.strip()

    def await_measured(self) -> None:
        """Wait until the node measures its hardware no more, which it does once."""
        self.node.until((self.node.home / "hardware.json").exists, "measure its hardware")

    def status(self) -> dict[str, Any]:
        """What the node says about itself."""
        with ControlClient(self.node.home / "control.sock", hint="") as control:
            return control.get("/status")

    def acknowledged(self) -> tuple[int, int]:
        """The node's epoch, and up to where in it the aggregator has promised to keep records."""
        status = self.status()
        return status["epoch"], status["acknowledged"]

    def await_acknowledged(self, after: tuple[int, int]) -> None:
        """Wait until more is acknowledged than ``after``."""
        self.node.until(lambda: self.acknowledged() > after, "be acknowledged", PATIENCE_S)

    def check_node(self) -> Left:
        """Look at the disk of the node, which is down: all that was told is there, and whole."""
        left = left_by(self.node)
        left.check_sound()
        missing = self.emitters.told - left.records
        assert not missing, f"the node lost {len(missing)} records that it had told of"
        return left

    def check_aggregator(self, epoch: int, acknowledged: int) -> Left:
        """Look at the disk of the aggregator, which is down: all that it acknowledged is there."""
        left = left_by(self.aggregator)
        left.check_sound()
        held = left.held_up_to(self.feed, epoch)
        assert held >= acknowledged, f"the aggregator acknowledged {acknowledged} and has {held}"
        return left

    def is_complete(self) -> bool:
        """Whether the aggregator has said that it holds every record of the node's epoch."""
        status = self.status()
        return status["acknowledged"] == status["next_sequence"]

    def check_complete(self) -> int:
        """Both stand still: one state, with everything in it. Return how many of the
        node's records the aggregator has promised to keep.
        """
        check = self.aggregator.json("check")  # asks the node for what no bundle holds yet
        assert check["ok"], check["findings"]
        self.node.until(self.is_complete, "have everything acknowledged", PATIENCE_S)
        missing = self.emitters.told - left_by(self.aggregator).records
        assert not missing, f"the aggregator lacks {len(missing)} records that were told"
        return left_by(self.node).acknowledged


class Soak:
    """A pair under fire."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed)
        self.pair = Pair(root / "node", root / "aggregator", self.rng)
        self.kills = 0
        self.acknowledged = 0
        """How many records the aggregator has promised to keep."""

    def run(self) -> None:
        """Form the mesh, kill both as often as planned, and check what is left."""
        pair = self.pair
        with stopping(pair.node, pair.aggregator), closing(pair.emitters):
            pair.form()
            for _ in range(self.plan.rounds):
                for victim in self.rng.sample([pair.node, pair.aggregator], 2):
                    self.strike(victim)
            pair.emitters.finish()
            self.acknowledged = pair.check_complete()
        pair.check_node()

    def strike(self, victim: Machine) -> None:
        """Kill one of the two while records are written and acknowledged."""
        pair = self.pair
        before = pair.acknowledged()
        pair.emitters.submit(self.plan.jobs)
        pair.await_acknowledged(before)
        pair.emitters.submit(self.plan.jobs)
        time.sleep(self.rng.uniform(0.0, PAUSE_S_MAX))
        promised = pair.acknowledged()
        victim.kill()
        self.kills += 1
        left = pair.check_node() if victim is pair.node else pair.check_aggregator(*promised)
        assert not left.walked.damage, f"damaged bytes: {left.walked.damage}"
        victim.up()

    def summary(self) -> str:
        """What happened, in words."""
        told = len(self.pair.emitters.told)
        return (
            f"{self.kills} kills, {told} records told of, {self.acknowledged} acknowledged, "
            f"none missing; jobs submitted again: {dict(self.pair.emitters.retries)}"
        )


def main() -> None:
    values = variables(ROUNDS=50, JOBS=40, SEED=0)
    began = time.monotonic()
    with replayable("records", values), tempfile.TemporaryDirectory(prefix="covey-") as root:
        soak = Soak(Path(root), Plan(*values.values()))
        soak.run()
    print(f"{soak.summary()} ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
