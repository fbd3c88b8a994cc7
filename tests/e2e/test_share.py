from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.demo import MODEL, SENTENCES, Demo
from tests.support.machines import Machine, stopping

pytestmark = pytest.mark.e2e


def test_records_of_a_node_that_does_not_share_stay_there_until_it_does(root: Path) -> None:
    demo = Demo(root)
    nodes = (demo.node1, demo.node2)
    for node in nodes:
        node.options["COVEY_SHARE"] = "0"

    with stopping(*nodes, demo.aggregator):
        demo.node1.run("init", "--role", "admitter,submitter")
        demo.node1.up()
        demo.join(demo.node2, "worker,submitter")
        demo.node2.run("models", "add", MODEL)
        demo.node2.up()
        demo.join(demo.aggregator, "aggregator")
        demo.aggregator.up()
        demo.node1.until(lambda: _has_worker(demo.node1), "see the worker")
        demo.node1.json("run", "embed", "--model", MODEL, stdin=SENTENCES)
        demo.aggregator.until(lambda: _connected(demo.aggregator) == 2, "meet both nodes")
        kept_back = _feeds_of(demo.aggregator, nodes)
        accepted = demo.node1.json("records", "list", "--kind", "job.accepted")
        ran = demo.node2.json("records", "list", "--kind", "job.run")
        for node in nodes:
            node.down()
            del node.options["COVEY_SHARE"]
            node.up()
        demo.aggregator.until(
            lambda: len(_feeds_of(demo.aggregator, nodes)) == 2, "get what is shared now"
        )
        lineage = demo.aggregator.json("lineage", accepted[0]["cid"])

    assert len(accepted) == len(ran) == 1
    assert kept_back == []
    assert lineage["verified"] is True
    assert lineage["missing"] == []


def _has_worker(node: Machine) -> bool:
    return any(MODEL in row["models"] for row in node.json("peers"))


def _connected(aggregator: Machine) -> int:
    return len(aggregator.json("status")["connected"])


def _feeds_of(aggregator: Machine, nodes: tuple[Machine, ...]) -> list[str]:
    """The nodes of which the aggregator holds anything."""
    held = {head["peer"] for head in aggregator.json("status")["feeds"]}
    return [node.name for node in nodes if node.json("id")["peer"] in held]
