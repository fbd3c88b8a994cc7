"""A start does with the last measurement of the machine where that is recent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from node.devices import ComputeDevice
from node.hardware import RECENT_S, environment, is_recent
from node.offering import MEASURED_FILE, Offerer
from node.runner.host import usable_cores
from peer.adverts import Offering
from peer.recorder import Recorder
from peer.service import running
from tests.support.feeds import START_US, effects, key, running_feeds
from tests.support.members import TestMesh

MEASURED: dict[str, Any] = {
    "cpu_model": "of long ago",
    "cpu_flags": [],
    "usable_cores": usable_cores(),
    "matmul_fp32_gflops": {"all_threads": {"median": 1.5, "n": 3}},
    "memory_copy_gb_s": {"one_thread": {"median": 2.5, "n": 3}},
    "engine": "torch",
    "accelerators": [],
    "measured_at_us": START_US,
}
LATER_US = START_US + int(RECENT_S * 1e6)


class NoModels:
    def scan(self) -> tuple[list[Any], list[Any]]:
        return [], []


async def test_what_was_measured_a_moment_ago_is_not_measured_again(tmp_path: Path) -> None:
    heard: list[Offering] = []
    file, device = tmp_path / MEASURED_FILE, ComputeDevice("auto")
    file.write_text(json.dumps({"environment": environment(), "measured": MEASURED}))
    membership = TestMesh().membership(key(1), "worker")

    async with running_feeds(tmp_path / "journal", key(1)) as feeds:
        recorder = Recorder(feeds, effects())
        offerer = Offerer(tmp_path, membership, NoModels(), recorder, "none", device)
        async with running(offerer.run):
            with trio.fail_after(60):
                await offerer.until_measured()
            told = offerer.offering()
            offerer.on_change(lambda: heard.append(offerer.offering()))

    assert told.capabilities["matmul_gflops"] == 1.5
    assert told.hardware is not None
    assert heard == [told], "who comes after the start hears of it too"
    assert json.loads(file.read_text())["measured"] == MEASURED


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"environment": {}}', "\0"])
async def test_a_measurement_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / MEASURED_FILE).write_text(content)
    membership = TestMesh().membership(key(1), "worker")

    async with running_feeds(tmp_path / "journal", key(1)) as feeds:
        recorder, device = Recorder(feeds, effects()), ComputeDevice("auto")
        offerer = Offerer(tmp_path, membership, NoModels(), recorder, "none", device)

        assert offerer._last_measured() is None


def test_what_is_old_of_the_future_or_of_other_cores_is_measured_again() -> None:
    assert is_recent(MEASURED, START_US)
    assert is_recent(MEASURED, LATER_US - 1)
    assert not is_recent(MEASURED, LATER_US)
    assert not is_recent(MEASURED, START_US - 1)
    assert not is_recent({**MEASURED, "usable_cores": usable_cores() + 1}, START_US)
