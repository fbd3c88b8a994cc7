"""What the control API tells of kept jobs: where they stand and how they ended is what was asked
for, also when that is an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from trio.testing import MockClock

from node.api.jobs import JobsApi
from node.carrier import Carrier
from node.errors import NoWorkerError
from peer.control import HANDLERS, raise_error
from protocols.errors import CoveyError
from tests.support.carrying import a_pair, carrying
from tests.support.jobs import JobMesh, spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until

JOB = spec().job_id.hex()


@asynccontextmanager
async def asking(carrier: Carrier) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of the API over one carrier."""
    node: Any = SimpleNamespace(carrier=carrier)
    app = Starlette(routes=JobsApi(node).routes(), exception_handlers=HANDLERS)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://covey") as http:
        yield http


async def told(carrier: Carrier, path: str) -> Any:
    async with asking(carrier) as http:
        return raise_error((await http.get(path)).json())


async def end_of(carrier: Carrier) -> Any:
    await carrier.wait(spec().job_id)
    return await told(carrier, f"/jobs/{JOB}"), await told(carrier, f"/jobs/{JOB}/why")


async def test_a_job_that_failed_is_shown_with_its_error_as_data(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(error=ValueError("it would not")))

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec(peer=worker.peer_id))
        shown, why = await end_of(carrier)

    assert (shown["state"], shown["items"], shown["result"]) == ("failed", 3, None)
    assert "it would not" in shown["error"]["message"]
    assert (why["state"], why["attempts"]) == ("failed", 3)
    assert "and failed: it would not" in why["candidates"][0]["answer"]
    assert why["reason"] == shown["error"]["message"]


async def test_a_job_that_expired_before_anybody_could_be_asked_says_so(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    moments = iter(range(0, 10**12, 5_000_000))
    object.__setattr__(submitter.effects, "now_us", lambda: next(moments))

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec(budget_ms=60_000))
        waiting = await told(carrier, f"/jobs/{JOB}/why")
        shown, why = await end_of(carrier)

    assert waiting["state"] == "waiting"
    assert shown["state"] == why["state"] == "expired"
    assert (why["attempts"], why["candidates"]) == (0, [])
    assert "time ran out" in why["reason"]


async def test_why_tells_of_the_kept_job_and_not_of_what_its_id_was_run_again_for(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair()

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec())
        await carrier.wait(spec().job_id)
        with pytest.raises(NoWorkerError):
            await submitter.submitter.run(spec(model="another"))
        _, why = await end_of(carrier)

    assert (why["state"], why["worker"]) == ("done", worker.peer_id)
    assert [row["peer"] for row in why["candidates"]] == [worker.peer_id]


async def test_why_goes_back_to_the_first_try(autojump_clock: MockClock, tmp_path: Path) -> None:
    """A later try has a history of its own, and a later daemon knows nothing of it."""
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))

    async with mesh.running():
        async with carrying(submitter, tmp_path) as carrier:
            await carrier.submit(spec())
            await until(lambda: worker.runners.running == 1)
        worker.runners.hold = False
        async with carrying(submitter, tmp_path) as carrier:
            _, why = await end_of(carrier)

    assert why["attempts"] == 2
    assert "its result was taken" in why["candidates"][0]["answer"]


async def test_a_job_is_found_by_the_beginning_of_its_id(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec(1))
        await carrier.submit(spec(256))
        await carrier.wait(spec().job_id)
        with pytest.raises(CoveyError, match="begins several"):
            await told(carrier, "/jobs/000000")
        with pytest.raises(CoveyError, match="no job here"):
            await told(carrier, "/jobs/abcdef/why")
        shown = await told(carrier, f"/jobs/{JOB[:-1]}")

    assert shown["job_id"] == JOB
