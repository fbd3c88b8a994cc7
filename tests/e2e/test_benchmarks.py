"""Benchmarks on a mesh of two, by the installed commands."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.machines import Machine, stopping

pytestmark = pytest.mark.e2e

KINDS = ("--kind", "bench.compute", "--kind", "bench.network")


@dataclass
class Pair:
    """Two workers, the first of which submits."""

    first: Machine
    second: Machine
    peers: list[str]
    run: dict[str, Any]
    """What ``covey bench run --all`` printed at the first."""
    told: str
    """What it said meanwhile."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    root = Path(tempfile.mkdtemp(prefix="covey-"))
    first, second = Machine("first", root / "first"), Machine("second", root / "second")
    with stopping(first, second):
        first.run("init")
        first.up()
        second.run("join", first.run("ticket", "--role", "worker,submitter").stdout.strip())
        second.up()
        first.until(lambda: len(measured(first)) == 2, "see two measured workers")
        peers = [machine.json("id")["peer"] for machine in (first, second)]
        done = first.run("bench", "run", "--all", *KINDS, "--json")
        yield Pair(first, second, peers, json.loads(done.stdout), done.stderr)
    shutil.rmtree(root)


def measured(machine: Machine) -> list[dict[str, Any]]:
    return [row for row in machine.json("peers") if row["capabilities"].get("matmul_n")]


def test_all_workers_are_measured_one_after_the_other(pair: Pair) -> None:
    ran = [(row["worker"], row["kind"]) for row in pair.run["results"]]

    one, two = pair.peers
    assert sorted(ran) == sorted(
        [(one, "bench.compute"), (two, "bench.compute"), (two, "bench.network")]
    )
    assert pair.run["failures"] == []
    assert "3/3 bench.network" in pair.told
    for row in pair.run["results"]:
        assert row["submitter"] == one
        assert row["software"].startswith("covey ")
        assert row["machine"]["cores"] >= 1
        for figure in row["figures"]:
            assert 0 < figure["least"] <= figure["median"] <= figure["most"]
            assert figure["n"] >= 5


def test_a_worker_advertises_what_was_measured_last(pair: Pair) -> None:
    (row,) = [
        row
        for row in pair.run["results"]
        if (row["worker"], row["kind"]) == (pair.peers[1], "bench.compute")
    ]
    (figure,) = [f for f in row["figures"] if f["name"] == "matmul_fp32_all_threads_gflops"]

    def advertised() -> bool:
        (peer,) = [peer for peer in pair.first.json("peers") if peer["peer"] == pair.peers[1]]
        told = peer["capabilities"]
        return (told["matmul_gflops"], told["matmul_n"]) == (
            round(figure["median"], 1),
            figure["n"],
        )

    pair.first.until(advertised, "hear the new measurement")


def test_both_sides_list_and_show_it(pair: Pair) -> None:
    mine = pair.first.json("bench", "list")
    theirs = pair.second.json("bench", "list")

    assert [row["record"] for row in mine] == ["bench.result"] * 3
    assert [row["record"] for row in theirs] == ["bench.measured"] * 2
    assert {row["job_id"] for row in theirs} < {row["job_id"] for row in mine}
    shown = pair.second.json("bench", "show", theirs[0]["cid"])
    assert shown["figures"] == theirs[0]["figures"]
    assert shown["environment"]
    assert shown["hardware"]
    (run,) = [link["cid"] for link in shown["links"] if link["direction"] == "informed_by"]
    assert pair.second.json("records", "show", run)["kind"] == "job.run"
    told = pair.first.run("bench", "show", mine[0]["cid"]).stdout
    assert f"signed by     {pair.peers[0]}" in told
    assert mine[0]["figures"][0]["name"] in told


def test_peers_and_records_are_put_beside_each_other(pair: Pair) -> None:
    compared = pair.first.json("bench", "compare", *pair.peers)

    assert [column["worker"] for column in compared["columns"]] == pair.peers
    cells = {each["figure"]: each["cells"] for each in compared["figures"]}
    first, second = cells["matmul_fp32_all_threads_gflops"]
    assert second["ratio"] == pytest.approx(second["median"] / first["median"], abs=1e-3)
    assert second["verdict"] in ("better", "worse", "within-spread")
    assert cells["round_trip_ms"][0] is None
    told = pair.first.run("bench", "compare", *(row["cid"] for row in pair.run["results"])).stdout
    assert "spread" in told


def test_a_benchmark_is_repeated_and_judged(pair: Pair) -> None:
    (network,) = [row for row in pair.run["results"] if row["kind"] == "bench.network"]

    done = pair.first.run_any("bench", "rerun", network["cid"], "--tolerance", "50", "--json")
    strict = pair.first.run("bench", "rerun", network["cid"], "--tolerance", "1e-6", status=1)

    answer = json.loads(done.stdout)
    verdict = answer["verdict"]
    assert done.returncode == (0 if verdict["is_passed"] else 1)
    assert answer["after"]["parameters"] == network["parameters"]
    assert answer["after"]["worker"] == network["worker"]
    assert len(verdict["figures"]) == 3
    assert all(each["is_passed"] is (each["apart_percent"] <= 50) for each in verdict["figures"])
    recorded = pair.first.json("records", "show", verdict["cid"])
    assert recorded["kind"] == "bench.verdict"
    assert {link["cid"] for link in recorded["links"]} == {network["cid"], answer["after"]["cid"]}
    assert "FAILED: at most" in strict.stdout


def test_a_mesh_without_models_has_none_to_measure(pair: Pair) -> None:
    done = pair.first.run("bench", "run", "--all", "--kind", "bench.model", status=1)

    assert done.stderr.startswith("covey: there is nothing to measure: no bench.model")
    assert "covey models add" in done.stderr


def test_a_job_says_what_the_speed_of_its_worker_rests_on(pair: Pair) -> None:
    asked = ("run", "bench.network", "--model", "machine", "--pings", "5", "--peer", pair.peers[1])

    ran = pair.first.json(*asked)

    assert ran["output"][0]["n"] == 5
    (why,) = pair.first.json("job", "why", ran["job_id"])["candidates"]
    assert " samples, 20" in why["basis"]


def test_a_worker_that_fails_does_not_stop_the_others(pair: Pair) -> None:
    pair.second.down()

    done = pair.first.run("bench", "run", "--all", "--kind", "bench.memory", "--json", status=1)

    answer = json.loads(done.stdout)
    assert [row["worker"] for row in answer["results"]] == [pair.peers[0]]
    assert [(each["peer"], each["kind"]) for each in answer["failures"]] == [
        (pair.peers[1], "bench.memory")
    ]
    assert f"bench.memory at {pair.peers[1]} failed" in done.stderr


def test_without_a_daemon_records_are_read_from_the_disk(pair: Pair) -> None:
    if pair.second.daemon is not None:
        pair.second.down()

    rows = pair.second.json("bench", "list")

    assert pair.second.json("bench", "show", rows[0]["cid"])["cid"] == rows[0]["cid"]
