"""A record's content leaves every disk, by the real commands; what is left still verifies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.machines import Machine, stopping

pytestmark = pytest.mark.e2e

MARKER = b"a secret job id."
JOB = MARKER.hex()


def test_redacted_records_are_in_no_file_of_the_mesh_and_still_verify(root: Path) -> None:
    node = Machine("node", root / "node")
    operator = Machine("operator", root / "operator", "covey-aggregator")

    with stopping(node, operator):
        node.run("init")
        node.run("models", "add", "noop")
        node.up()
        operator.run("join", node.run("ticket", "--role", "aggregator").stdout.strip())
        operator.up()
        node.until(lambda: offers_a_model(node), "offer its model")
        node.run("run", "bench.noop", "--model", "noop", "--job-id", JOB, stdin="x\n")
        rows = node.json("records", "list")
        told = [row["cid"] for row in rows if row["kind"].startswith("job.")]
        operator.until(lambda: known(operator, told[0]), "hold the job's latest record")
        operator.json("checkpoint")
        assert files_with_marker(node)
        assert files_with_marker(operator)
        unconfirmed = node.run("records", "redact", told[0], "--reason", "a person", status=2)

        [own] = node.json("records", "redact", told[0], "--reason", "a person", "--yes")
        others = operator.json("redact", *told[1:], "--reason", "an operator", "--yes")
        node.until(lambda: not files_with_marker(node), "erase what the operator redacted")
        operator.until(lambda: not files_with_marker(operator), "erase what the author redacted")
        verdicts = {cid: operator.json("verify", cid, "--deep") for cid in (told[0], told[-1])}
        here = node.json("records", "verify", told[-1])
        check = operator.json("check")
        operator.run("export", "car", "--lineage", told[0], "--output", str(root / "left.car"))
        node.down()
        operator.down()
        offline = node.run("records", "verify", "--file", str(root / "left.car"))
        again = operator.json("check")

    assert "--yes" in unconfirmed.stderr
    assert (own["authority"], own["reason"], own["is_new"]) == ("author", "a person", True)
    assert len(told) > 2
    assert [each["cid"] for each in others] == told[1:]
    for cid, verdict in verdicts.items():
        assert verdict["ok"], verdict["faults"]
        assert cid in [each["cid"] for each in verdict["redacted"]]
    assert here["ok"]
    assert here["redacted"][0]["reason"] == "an operator"
    assert here["redacted"][0]["authority"] == "aggregator"
    assert check["findings"] == again["findings"] == []
    assert check["bodiless"] == len(told)
    assert "by that peer at" in offline.stdout
    assert "verified, but for the content of 1 record" in offline.stdout


def offers_a_model(node: Machine) -> bool:
    return any(row["models"] for row in node.json("peers"))


def known(operator: Machine, cid: str) -> bool:
    return operator.run_any("verify", cid).returncode == 0


def files_with_marker(machine: Machine) -> list[Any]:
    files = (path for path in machine.home.rglob("*") if path.is_file() and path.suffix != ".log")
    return [path for path in files if MARKER in path.read_bytes()]
