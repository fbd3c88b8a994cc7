"""The Python client, against a real node: under trio, under asyncio, and without either."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import trio

from node.client import connect, connect_sync
from peer.control import DaemonDownError
from protocols.errors import CoveyError
from tests.support.machines import Machine, stopping

pytestmark = pytest.mark.e2e

MODEL = "all-minilm-l6-v2"


@pytest.fixture(scope="module")
def node() -> Iterator[Machine]:
    """A mesh of one: its node is one more candidate for its own jobs."""
    machine = Machine("alone", Path(mkdtemp(prefix="covey-")) / "alone")
    with stopping(machine):
        machine.run("init")
        machine.run("models", "add", MODEL)
        machine.up()
        machine.until(lambda: MODEL in machine.json("peers")[0]["models"], "offer its model")
        yield machine


async def use(home: Path) -> dict[str, Any]:
    async with connect(home) as covey:
        job = await covey.submit("embed", model=MODEL, input=["one", "two"])
        rows = [row async for row in job]
        again = await (await covey.job(job.id)).result()
        with pytest.raises(CoveyError, match="there is no job"):
            await covey.job("00" * 16)
        doomed = await covey.submit("embed", model="no-such", input=["one"], timeout_s=60)
        with pytest.raises(CoveyError, match="not over"):
            await doomed.result(timeout_s=0.1)
        await doomed.cancel()
        with pytest.raises(CoveyError, match="cancelled"):
            await doomed.result()
        return {
            "rows": rows,
            "array": again.array(),
            "state": (await job.status())["state"],
            "why": await job.why(),
            "peers": await covey.peers(),
            "ran": (await covey.run("embed", model=MODEL, input=["one"])).array(),
            "models": await covey.models(),
            "jobs": [each["job_id"] for each in await covey.jobs()],
            "logs": await job.logs(),
            "id": job.id,
        }


@pytest.mark.parametrize("run", [trio.run, lambda main, home: asyncio.run(main(home))])
def test_a_program_submits_iterates_and_comes_back(node: Machine, run: Any) -> None:
    seen = run(use, node.home)

    assert [row["index"] for row in seen["rows"]] == [0, 1]
    assert seen["array"].shape == (2, 384)
    assert np.allclose(seen["array"][1], seen["rows"][1]["embedding"])
    assert seen["state"] == "done"
    assert "its result was taken" in seen["why"]["candidates"][0]["answer"]
    assert len(seen["peers"]) == 1
    assert seen["ran"].shape == (1, 384)
    assert [each["model"] for each in seen["models"]] == [MODEL]
    assert seen["id"] in seen["jobs"]
    assert seen["logs"]


def test_a_script_does_the_same_without_coroutines(node: Machine) -> None:
    with connect_sync(node.home) as covey:
        job = covey.submit("embed", model=MODEL, input=["one"])
        rows = list(job)
        again = covey.job(job.id).result()
        ran = covey.run("embed", model=MODEL, input=["one"])
        doomed = covey.submit("embed", model="no-such", input=["one"])
        with pytest.raises(CoveyError, match="not over after 0 s"):
            doomed.result(timeout_s=0)
        doomed.cancel()
        ids, logs = [each["job_id"] for each in covey.jobs()], job.logs()

    assert len(rows) == 1
    assert again.summary["worker"] == node.json("id")["peer"]
    assert np.allclose(ran.array()[0], rows[0]["embedding"])
    assert {job.id, doomed.id} <= {*ids}
    assert logs
    with pytest.raises(CoveyError, match="closed"):
        job.status()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"input": None}, "no list"),
        ({"input": "one"}, "no list"),
        ({"input": ["one"], "timeout_s": "5"}, "timeout_s"),
        ({"input": ["one"], "seed": 5}, "no seed"),
    ],
)
def test_a_program_that_asks_wrongly_is_told_before_anything_is_sent(
    node: Machine, options: Any, told: str
) -> None:
    with connect_sync(node.home) as covey, pytest.raises(CoveyError, match=told):
        covey.submit("embed", model=MODEL, **options)


def test_without_a_node_a_program_is_told_so(tmp_path: Path) -> None:
    async def ask() -> None:
        async with connect(tmp_path) as covey:
            await covey.peers()

    with pytest.raises(DaemonDownError, match="no node answers"):
        trio.run(ask)
    with pytest.raises(DaemonDownError), connect_sync(tmp_path):
        pass
