"""Members come and go, as real processes on loopback."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from peer.control import ControlClient
from tests.support.machines import Machine, stopping

pytestmark = pytest.mark.e2e

OUT_S = 5.0


class Mesh:
    """Nodes and an aggregator that all know each other."""

    def __init__(self, root: Path, nodes: int) -> None:
        self.nodes = [Machine(f"node{i}", root / f"node{i}") for i in range(1, nodes + 1)]
        self.aggregator = Machine("aggregator", root / "aggregator", "covey-aggregator")
        self.machines = [*self.nodes, self.aggregator]

    def form(self) -> None:
        first = self.nodes[0]
        first.run("init")
        first.up()
        for machine in self.machines[1:]:
            role = "aggregator" if machine is self.aggregator else "worker,submitter"
            machine.run("join", first.run("ticket", "--role", role).stdout.strip())
            machine.up()
        others = len(self.machines) - 1
        for machine in self.machines:
            machine.until(lambda m=machine: connections(m) == others, "meet everyone")


def ask(machine: Machine, path: str) -> Any:
    """Ask the daemon itself: a command's start takes longer than what is measured here."""
    with ControlClient(machine.home / "control.sock", hint="") as client:
        return client.get(path)


def connections(machine: Machine) -> int:
    return len(ask(machine, "/status")["connected"])


def is_revoked(machine: Machine) -> bool:
    return bool(ask(machine, "/status")["is_revoked"])


def knows(machine: Machine, peer: str) -> bool:
    rows = ask(machine, "/peers") if machine.command == "covey" else []
    return any(row["peer"] == peer for row in rows) or peer in ask(machine, "/status")["connected"]


def test_a_revoked_peer_is_out_within_seconds_and_stays_out_after_everyone_restarts(
    root: Path,
) -> None:
    mesh = Mesh(root, nodes=3)
    first, second, revoked = mesh.nodes
    others = [first, second, mesh.aggregator]

    with stopping(*mesh.machines):
        mesh.form()
        peer = revoked.json("id")["peer"]
        answer = first.json("revoke", peer)
        since = time.monotonic()
        first.until(lambda: not any(knows(each, peer) for each in others), "drop it", OUT_S)
        took_s = time.monotonic() - since
        revoked.until(lambda: is_revoked(revoked), "hear of it", 70)
        refused = revoked.run("run", "embed", "--model", "m", status=1, stdin="text").stderr
        for machine in mesh.machines:
            machine.down()
        for machine in others:
            machine.up()
        told = revoked.run("up", status=1).stderr
        # the list is gone, as in an older copy of its disk: it starts, and nobody lets it in
        (revoked.home / "revocations.cbor").unlink()
        revoked.up()
        revoked.until(lambda: is_revoked(revoked), "be told again")
        back = [each.name for each in others if knows(each, peer)]
        connected = connections(revoked)

    assert answer["is_news"]
    assert answer["told"] == 3
    assert took_s < OUT_S
    assert "was revoked" in told
    assert "hint:" in told
    assert refused
    assert back == []
    assert connected == 0


def test_a_peer_is_revoked_while_the_node_is_down_and_only_where_the_root_key_is(
    root: Path,
) -> None:
    mesh = Mesh(root, nodes=2)
    first, second = mesh.nodes

    with stopping(*mesh.machines):
        mesh.form()
        peer = second.json("id")["peer"]
        elsewhere = second.run("revoke", first.json("id")["peer"], status=1).stderr
        first.down()
        answer = first.json("revoke", peer)
        typo = first.run("revoke", "12D3KooWnobody", status=1).stderr
        first.up()
        mesh.aggregator.until(lambda: not knows(mesh.aggregator, peer), "drop it", 30)

    assert "root key" in elsewhere
    assert "covey init" in elsewhere
    assert answer == {
        "peer": peer,
        "is_news": True,
        "version": 1,
        "revoked": [peer],
        "told": 0,
    }
    assert "covey id" in typo


def test_a_second_admitter_admits_and_a_member_leaves(root: Path) -> None:
    first, second, third = (Machine(f"node{i}", root / f"node{i}") for i in (1, 2, 3))

    with stopping(first, second, third):
        first.run("init")
        first.up()
        second.run("join", first.run("ticket", "--role", "admitter,worker").stdout.strip())
        second.up()
        third.run("join", second.run("ticket", "--role", "submitter").stdout.strip())
        third.up()
        first.until(lambda: connections(first) == 2, "meet whom the second admitted")
        unsure = third.run("leave", status=2).stderr
        kept = first.run("leave", "--yes", status=1).stderr
        answer = third.json("leave", "--yes")
        assert third.daemon is not None
        status = third.daemon.wait(timeout=45)
        third.daemon = None
        first.until(lambda: connections(first) == 1, "see it leave", 30)
        told = third.run("up", status=1).stderr
        third.run("join", second.run("ticket", "--role", "worker").stdout.strip())
        third.up()
        first.until(lambda: connections(first) == 2, "see it back")

    assert "--yes" in unsure
    assert "covey mesh backup" in kept
    assert answer["is_void"]
    assert status == 0
    assert "belongs to no mesh" in told
