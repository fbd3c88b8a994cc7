from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.demo import Demo
from tests.support.machines import Machine, stopping

pytestmark = pytest.mark.e2e


def test_an_aggregator_that_was_away_ends_with_the_same_state_as_one_that_was_not(
    root: Path,
) -> None:
    demo = Demo(root)
    witness = Machine("witness", root / "witness", "covey-aggregator", {"COVEY_FILING_AGE_S": "0"})

    with stopping(*demo.machines, witness):
        demo.form_a_mesh()
        demo.join(witness, "aggregator")
        witness.up()
        demo.show_peers()
        demo.aggregator.down()
        result = demo.embed()
        demo.damage_models()
        demo.run_failing_jobs()
        witness.until(lambda: _counts(witness) == [3], "see three reports")
        demo.aggregator.up()
        demo.aggregator.until(demo.is_filed, "file the issue")
        cid = result["output_cid"]
        demo.aggregator.until(
            lambda: _answers(demo.aggregator, cid) == _answers(witness, cid),
            "agree with the witness",
        )
        issues = list((witness.home / "issues").glob("*.md"))

    assert issues == []


def _counts(machine: Machine) -> list[int]:
    return [group["count"] for group in machine.json("groups", "list")]


def _answers(machine: Machine, cid: str) -> tuple[object, ...]:
    status = machine.json("status")
    lineage = machine.json("lineage", cid) if status["records"] else None
    return status["state_root"], machine.json("groups", "list"), lineage
