from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.demo import MODEL, SENTENCES, Demo, options_for
from tests.support.github.server import FakeGithub
from tests.support.machines import stopping

pytestmark = pytest.mark.e2e


def test_the_main_job_runs_from_an_empty_mesh_to_one_issue_and_a_verified_lineage(
    root: Path,
) -> None:
    with FakeGithub() as fake:
        demo = Demo(root, options_for(fake))
        _run_and_check(demo, fake)


def _run_and_check(demo: Demo, fake: FakeGithub) -> None:
    with stopping(*demo.machines):
        demo.form_a_mesh()
        demo.show_peers()
        result = demo.embed()
        verified = _verify(demo)
        demo.fail()
        verified_lineage = demo.aggregator.json("lineage", verified["output_cid"])
        lineage = demo.aggregator.json("lineage", result["output_cid"])
        rebuilt = _lineage_after_a_rebuild(demo, result["output_cid"])
        groups = demo.aggregator.json("groups", "list")
        _fail_twenty_times_more(demo)

    workers = {demo.node2.json("id")["peer"], demo.node3.json("id")["peer"]}
    assert result["worker"] in workers
    assert lineage["verified"] is True
    assert lineage["worker"] == result["worker"]
    assert lineage["submitter"] == demo.node1.json("id")["peer"]
    assert lineage["missing"] == []
    assert lineage["model"]["name"] == "all-minilm-l6-v2"
    assert lineage["input"] == result["input_cid"]
    assert lineage["software"]
    assert lineage["hardware"]
    assert rebuilt == lineage
    assert verified_lineage["worker"] == verified["worker"], "not the peer that ran it again"
    assert [(group["count"], group["issue"]) for group in groups] == [(3, 1)]
    assert len(list((demo.aggregator.home / "issues").glob("*.md"))) == 1
    assert list(fake.repository.issues) == [1]
    assert fake.count("POST", "/issues$") == 1
    assert fake.violations == []


def _verify(demo: Demo) -> dict[str, Any]:
    """The other worker agrees; a third one is not there, and that is no success."""
    arguments = ("run", "embed", "--model", MODEL, "--verify")
    agreed = json.loads(demo.node1.run(*arguments, "1", "--json", stdin=SENTENCES).stdout)
    short = demo.node1.run(*arguments, "2", status=3, stdin=SENTENCES)

    verification = agreed["verification"]
    (other,) = verification["peers"]
    workers = {demo.node2.json("id")["peer"], demo.node3.json("id")["peer"]}
    assert verification["verdict"] == other["verdict"] == "agreed"
    assert {agreed["worker"], other["peer"]} == workers
    assert other["difference"] <= verification["tolerance"] == 1e-5
    assert short.stderr.startswith("unverified: 1 of 2 other peers agree")
    assert "has run it already" in short.stderr
    assert len(short.stdout.splitlines()) == agreed["items"], "the result is printed all the same"
    return agreed


def _fail_twenty_times_more(demo: Demo) -> None:
    """Kill the aggregator three times meanwhile; nobody files a second issue."""
    aggregator, peer = demo.aggregator, demo.node2.json("id")["peer"]
    arguments = ("run", "embed", "--model", MODEL, "--peer", peer)
    for time in range(20):
        demo.node1.run(*arguments, status=1, stdin=SENTENCES)
        if time % 6 == 5:
            aggregator.down(signal.SIGKILL)
            aggregator.up()
    aggregator.until(lambda: aggregator.json("groups", "list")[0]["count"] >= 5, "count on")
    aggregator.run("issues", "sync")


def _lineage_after_a_rebuild(demo: Demo, cid: str) -> object:
    """Delete the index while the aggregator is down; it must not matter."""
    aggregator = demo.aggregator
    aggregator.down()
    (aggregator.home / "index.duckdb").unlink()
    aggregator.run("rebuild")
    aggregator.up()
    return aggregator.json("lineage", cid)
