from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from prov.graph import prov_to_graph
from prov.model import ProvDocument

from tests.e2e.demo import MODEL, SENTENCES, Demo, options_for
from tests.support.github.server import FakeGithub
from tests.support.machines import stopping
from tests.support.measured import PLACE
from tests.support.standing_alone import alone

pytestmark = pytest.mark.e2e


def test_the_main_job_runs_from_an_empty_mesh_to_one_issue_and_a_verified_lineage(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PLACE)  # here, every node measures its hardware
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
        _check_prov(demo, lineage)
        _check_after_a_loss(demo, workers)

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


def _check_prov(demo: Demo, lineage: dict[str, Any]) -> None:
    """The PROV-JSON of a lineage draws the same graph in the ``prov`` package."""
    file = demo.root / "lineage.json"
    arguments = ("export", "prov-json", "--lineage", lineage["cid"], "--output", str(file))
    summary = demo.aggregator.json(*arguments)

    document = ProvDocument.deserialize(str(file), format="json")
    drawn = {
        (str(one.identifier), type(relation).__name__, str(other.identifier))
        for one, other, relation in prov_to_graph(document).edges(data="relation")
    }
    assert summary["records"] == len(lineage["records"])
    assert drawn == {edge for record in lineage["records"] for edge in _edges(record, lineage)}


def _edges(record: dict[str, Any], lineage: dict[str, Any]) -> set[tuple[str, str, str]]:
    """What a record of a lineage is in PROV."""
    peer, activity = f"peer:{record['peer']}", f"record:{record['cid']}"
    if record["start"] is None and not record["generated"]:
        return {(f"cid:{record['cid']}", "ProvAttribution", peer)}
    blocks = [record[block] for block in ("environment", "hardware") if record[block]]
    used = [link["cid"] for link in record["used"]] + blocks
    return {
        (activity, "ProvAssociation", peer),
        *((activity, "ProvUsage", f"cid:{cid}") for cid in used),
        *((f"cid:{link['cid']}", "ProvGeneration", activity) for link in record["generated"]),
        *((activity, "ProvCommunication", f"record:{cid}") for cid in record["informed_by"]),
    }


def _check_after_a_loss(demo: Demo, workers: set[str]) -> None:
    """A lineage of three peers, one of them gone for good, is whole at the aggregator and holds
    where no daemon ever ran, whether the aggregator was up when it was exported or not.
    """
    (verdict,) = demo.node1.json("records", "list", "--kind", "job.verified", "--limit", "1")
    demo.node3.down(signal.SIGKILL)
    shutil.rmtree(demo.node3.home)
    files = [demo.root / "up.car", demo.root / "down.car"]
    arguments = ("export", "car", "--lineage", verdict["cid"], "--output")

    lineage = demo.aggregator.json("lineage", verdict["cid"])
    checked = demo.aggregator.json("verify", verdict["cid"], "--deep")
    demo.aggregator.run(*arguments, str(files[0]))
    demo.aggregator.down()
    demo.aggregator.run(*arguments, str(files[1]))
    mesh = demo.node1.json("id")["mesh"]
    found, status = alone(demo.root, "verify", "--file", str(files[0]), "--mesh", mesh)
    foreign, refused = alone(
        demo.root, "verify", "--file", str(files[0]), "--mesh", demo.node1.json("id")["peer"]
    )

    peers = {demo.node1.json("id")["peer"], *workers}
    assert {record["peer"] for record in lineage["records"]} == peers
    assert (lineage["verified"], lineage["missing"]) == (True, [])
    assert checked["ok"]
    assert (found["ok"], found["faults"], status) == (True, [], 0)
    assert set(found["authors"]) == peers
    assert {each["state"] for each in found["members"]} == {"member"}
    assert {each["state"] for each in foreign["members"]} == {"foreign"}
    assert (foreign["ok"], foreign["faults"], refused) == (False, [], 1)
    assert found["records"] == checked["records"]
    assert found["records"] - found["certificates"] == len(lineage["records"])
    assert (found["missing"], found["left_out"]) == ([], 0)
    assert files[0].read_bytes() == files[1].read_bytes()
    _check_a_flipped_bit(demo, files[0])
    _check_a_nodes_own(demo, verdict["cid"], workers)


def _check_a_flipped_bit(demo: Demo, file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    found, status = alone(demo.root, "records", "verify", "--file", str(file), command="covey")

    assert (found["ok"], status) == (False, 1)
    assert found["faults"][0].startswith("byte ")


def _check_a_nodes_own(demo: Demo, cid: str, workers: set[str]) -> None:
    """A node checks and exports what it holds, while it runs and when it does not."""
    file = demo.root / "node.car"
    arguments = ("records", "export", "car", "--all", "--output", str(file))

    checked = demo.node1.json("records", "verify", cid)
    running = demo.node1.json(*arguments)
    found, _ = alone(demo.root, "records", "verify", cid, "--file", str(file), command="covey")
    demo.node1.down()  # which signs what was not signed yet
    stopped = demo.node1.json(*arguments)
    checked_then = demo.node1.json("records", "verify", cid)

    peer = demo.node1.json("id")["peer"]
    assert (checked["ok"], checked["records"], checked["authors"]) == (True, 2, [peer])
    assert checked["certificates"] == 1
    assert checked_then == checked
    assert found["ok"]
    assert {peer} <= {*found["authors"]} <= {peer, *workers}, (
        "its own, and its workers' of its jobs"
    )
    assert found["records"] == running["records"] <= stopped["records"]
    assert stopped["unproven"] == []


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
    assert "only 1 other peer has this model" in short.stderr
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
