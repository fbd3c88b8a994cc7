from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.machines import Machine, stopping
from tests.support.rot import flip

pytestmark = pytest.mark.e2e


def test_a_bit_that_flips_under_a_running_aggregator_is_found_and_fetched_from_its_author(
    root: Path,
) -> None:
    node = Machine("node", root / "node")
    aggregator = Machine("aggregator", root / "aggregator", "covey-aggregator")
    with stopping(node, aggregator):
        node.run("init")
        node.up()
        aggregator.run("join", node.run("ticket", "--role", "aggregator").stdout.strip())
        aggregator.up()
        aggregator.until(lambda: aggregator.json("check")["records"] > 2, "hold the node's records")

        flip(aggregator.home / "journal", b"environment")
        found = aggregator.run("check", "--json", status=1).stdout
        aggregator.until(
            lambda: aggregator.run_any("check").returncode == 0, "fetch what was damaged"
        )

        assert node.json("id")["peer"] in found
        assert '"damaged"' in found
        status = aggregator.json("status")
        assert status["quarantined"] == 1
        assert status["holes"] == 0
