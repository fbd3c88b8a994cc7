from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.machines import Machine, stopping
from tests.support.rot import flip

pytestmark = pytest.mark.e2e


@contextmanager
def both(root: Path) -> Iterator[tuple[Machine, Machine]]:
    """A node and its aggregator, up."""
    node = Machine("node", root / "node")
    aggregator = Machine("aggregator", root / "aggregator", "covey-aggregator")
    with stopping(node, aggregator):
        node.run("init")
        node.up()
        aggregator.run("join", node.run("ticket", "--role", "aggregator").stdout.strip())
        aggregator.up()
        yield node, aggregator


def test_a_bit_that_flips_on_one_disk_is_found_and_fetched_from_the_other(root: Path) -> None:
    with both(root) as (node, aggregator):
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

        node.until(lambda: node.json("status")["acknowledged"] > 2, "be acknowledged")
        [rotten] = [
            row["cid"] for row in node.json("records", "list") if row["kind"] == "environment"
        ]
        whole = node.run("status").stdout

        flip(node.home / "journal", b"environment")
        shown = node.run("records", "show", rotten)
        damaged = node.run("status").stdout
        found = node.run("records", "check", status=1).stdout
        again = node.run("records", "check").stdout
        mended = node.json("status")
        restored = node.run("records", "show", rotten)
        node.kill()
        offline = node.run("records", "check").stdout

        keeper = aggregator.json("status")["peer"]
        assert '"status": "damaged"' in shown.stdout
        assert f"{keeper} may have what is gone" in shown.stderr
        assert "`covey records check` says which" in damaged
        assert "`covey records check` says which" not in whole
        assert f"may be fetched from {keeper}" in found
        assert "1 bundle came again" in found
        assert "nothing is wrong" in again
        assert (mended["damaged_bundles"], mended["damaged_bytes"]) == (0, 0)
        assert '"damaged": null' in restored.stdout
        assert "nothing is wrong" in offline


def test_what_nobody_has_is_given_up_when_a_person_says_so(root: Path) -> None:
    with both(root) as (_, aggregator):
        aggregator.run("checkpoint")
        flip(aggregator.home / "journal", b"state.checkpoint")
        named = aggregator.run("check", status=1).stdout
        lost = aggregator.run("check", "--accept-loss", status=1).stdout
        after = aggregator.run("check").stdout

        assert "`covey-aggregator check --accept-loss`" in named
        assert "lost: records " in lost
        assert "1 state.checkpoint" in lost
        assert "Nothing else needs doing" in lost
        assert "nothing is wrong" in after
        assert "more are lost, as their authors say" in after
