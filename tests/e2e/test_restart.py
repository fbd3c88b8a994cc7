"""Nodes that start again are there again, as real processes on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.control import ControlClient
from tests.support.machines import Machine, stopping

pytestmark = pytest.mark.e2e


def connected(machine: Machine) -> list[str]:
    with ControlClient(machine.home / "control.sock", hint="") as client:
        return client.get("/status")["connected"]


def test_two_members_that_restart_while_the_admitter_is_gone_find_each_other(root: Path) -> None:
    admitter, *members = (Machine(name, root / name) for name in ("admitter", "one", "two"))
    one, two = members

    with stopping(admitter, *members):
        admitter.run("init")
        admitter.up()
        for member in members:
            member.run("join", admitter.run("ticket", "--role", "worker").stdout.strip())
            member.up()
        one.until(lambda: len(connected(one)) == 2, "meet the admitter and the other member")
        admitter.kill()
        for member in members:
            member.down()
        for member in members:
            member.up()
        one.until(lambda: connected(one), "meet the other member again")

        assert connected(one) == [two.json("id")["peer"]]
