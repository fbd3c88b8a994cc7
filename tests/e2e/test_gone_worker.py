"""A worker that is gone for good before any aggregator saw its records, as real processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.demo import MODEL, SENTENCES
from tests.support.machines import Machine, stopping

pytestmark = pytest.mark.e2e


def test_the_lineage_of_what_a_worker_made_comes_from_the_submitter(root: Path) -> None:
    submitter, worker = Machine("submitter", root / "submitter"), Machine("worker", root / "worker")
    aggregator = Machine("aggregator", root / "aggregator", "covey-aggregator")

    with stopping(submitter, worker, aggregator):
        submitter.run("init", "--role", "admitter,submitter")
        submitter.up()
        for machine, role in ((worker, "worker"), (aggregator, "aggregator")):
            machine.run("join", submitter.run("ticket", "--role", role).stdout.strip())
        worker.run("models", "add", MODEL)
        worker.up()
        submitter.until(lambda: _is_offered(submitter), "see the worker's model")
        result = submitter.json("run", "embed", "--model", MODEL, stdin=SENTENCES)
        submitter.until(lambda: _is_all_here(submitter), "fetch what the worker recorded of it")
        worker.kill()
        shutil.rmtree(worker.home)
        aggregator.up()
        status = aggregator.until(lambda: _status_with_records(aggregator), "get the records")
        lineage = aggregator.json("lineage", result["output_cid"])

    assert (status["missing"], lineage["missing"]) == (0, [])
    assert lineage["verified"]
    assert lineage["model"]["registered"]["name"] == MODEL
    assert lineage["hardware"]
    assert lineage["worker"] == result["worker"] != lineage["submitter"]


def _is_offered(machine: Machine) -> bool:
    return any(MODEL in row["models"] and row["capabilities"] for row in machine.json("peers"))


def _is_all_here(machine: Machine) -> bool:
    told = machine.json("status")["records_of_workers"]
    return told["found"] > 0 and told["sought"] == 0


def _status_with_records(machine: Machine) -> dict[str, Any] | None:
    status = machine.json("status")
    return status if len({head["peer"] for head in status["feeds"]}) > 2 else None
