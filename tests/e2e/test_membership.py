"""Members come and go, as real processes on loopback."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from peer.control import ControlClient
from tests.e2e.demo import MODEL
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


def test_two_machines_with_one_identity_find_out_and_sign_nothing_more(root: Path) -> None:
    mesh = Mesh(root, nodes=2)
    _, second = mesh.nodes
    copy = Machine("copy", root / "copy")

    with stopping(*mesh.machines, copy):
        mesh.form()
        shutil.copytree(second.home, copy.home, ignore=_no_sockets)
        alone = ask(second, "/status")["is_duplicate"]
        copy.up()
        for machine in (second, copy):
            machine.until(lambda m=machine: ask(m, "/status")["is_duplicate"], "find out", 120)
        told = second.run("doctor").stdout
        copy.down()
        second.down()
        second.up()
        second.until(lambda m=second: connections(m) == 2, "come back")
        again = ask(second, "/status")["is_duplicate"]

    assert not alone
    assert "ANOTHER INSTANCE" in told
    assert not again
    assert "another instance of this peer is running" in second.log.read_text()


def test_a_restored_backup_goes_on_above_what_others_saw_and_never_forks(root: Path) -> None:
    mesh = Mesh(root, nodes=2)
    _, second = mesh.nodes
    backup = root / "backup"

    with stopping(*mesh.machines):
        mesh.form()
        second.down()
        shutil.copytree(second.home, backup, ignore=_no_sockets)
        second.up()
        second.run("models", "add", MODEL)
        second.until(lambda: _is_held(mesh.aggregator, second), "have its records taken")
        second.down()
        second.up()
        second.until(lambda: connections(second) == 2, "meet everyone")
        before, boot = ask(second, "/status"), _boot(second)
        second.down()
        shutil.rmtree(second.home)
        backup.rename(second.home)
        old_boot = _boot(second)
        second.up()
        second.until(lambda: ask(second, "/status")["epoch"] > before["epoch"], "rise")
        second.run("models", "add", MODEL)
        second.until(lambda: _is_held(mesh.aggregator, second), "have new records taken")
        status, is_duplicate = ask(mesh.aggregator, "/status"), ask(second, "/status")
        new_boot = _boot(second)

    assert old_boot < boot < new_boot
    assert status["forks"] == 0
    assert not is_duplicate["is_duplicate"]


def _no_sockets(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".sock")]


def _boot(machine: Machine) -> int:
    return int((machine.home / "boot").read_text())


def _is_held(aggregator: Machine, node: Machine) -> bool:
    """Whether the aggregator has all that the node recorded in its present epoch."""
    status = ask(node, "/status")
    held = {
        (h["peer"], h["epoch"]): h["next_sequence"] for h in ask(aggregator, "/status")["feeds"]
    }
    last = held.get((status["peer"], status["epoch"]), 0)
    return last == status["next_sequence"] > 0
