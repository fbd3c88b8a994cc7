from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.demo import Demo
from tests.support.machines import stopping

pytestmark = pytest.mark.e2e


def test_the_main_job_runs_from_an_empty_mesh_to_one_issue_and_a_verified_lineage(
    root: Path,
) -> None:
    demo = Demo(root)

    with stopping(*demo.machines):
        demo.form_a_mesh()
        demo.show_peers()
        result = demo.embed()
        demo.fail()
        lineage = demo.aggregator.json("lineage", result["output_cid"])
        rebuilt = _lineage_after_a_rebuild(demo, result["output_cid"])
        groups = demo.aggregator.json("groups", "list")

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
    assert [(group["count"], group["issue"]) for group in groups] == [(3, 1)]
    assert len(list((demo.aggregator.home / "issues").glob("*.md"))) == 1


def _lineage_after_a_rebuild(demo: Demo, cid: str) -> object:
    """Delete the index while the aggregator is down; it must not matter."""
    aggregator = demo.aggregator
    aggregator.down()
    (aggregator.home / "index.duckdb").unlink()
    aggregator.run("rebuild")
    aggregator.up()
    return aggregator.json("lineage", cid)
