"""Figures ``small_job_…_beside_100mb``: small jobs beside large ones, over one session.

One job carries at most 64 MiB of input, so two jobs of 50 MB go one after the other: 100 MB to the
worker as input and 100 MB back as output, through one runner. Meanwhile, and before, a client has
one small no-op job done after another. What goes through in a second, with those small jobs and the
way through the runner, stands beside a TCP echo of as many bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import trio

from tests.bench.figure import Figure, figure, percentile
from tests.bench.mesh import TRY_EVERY_S, formed
from tests.bench.processes import Child, child

ROUNDS = 3
ALONE_S = 3.0
LARGE_BYTES = 50_000_000
LARGE_JOBS = 2
WORK = {"kind": "bench.noop", "model": "noop"}


def figures() -> Iterator[Figure]:
    """Run small jobs alone and beside large ones, in turn."""
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    rates: list[float] = []
    raw: list[float] = []
    with formed("noop") as mesh, child("tests.bench.echo") as echo:
        mesh.start_worker()
        mesh.submitter.ask(do="try", every_s=TRY_EVERY_S, **WORK)
        mesh.await_measured()
        _transfer(mesh.submitter, 1)  # what is only done the first time
        for _ in range(ROUNDS):
            answer = mesh.submitter.ask(do="jobs", seconds=ALONE_S, concurrency=1, **WORK)
            alone.append(answer["latencies_s"])
            answer = _transfer(mesh.submitter, LARGE_JOBS)
            beside.append(answer["latencies_s"])
            rates.append(2 * LARGE_JOBS * LARGE_BYTES / 1e6 / answer["wall_s"])
            raw.append(2 * LARGE_BYTES / 1e6 / trio.run(_echo_s, echo.ready["port"]))
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        yield _ratio(name, share, alone, beside)
    yield figure(
        "transfer_mb_s",
        "MB/s, both ways",
        rates,
        n=ROUNDS * LARGE_JOBS,
        baseline="raw trio TCP echo",
        baseline_rounds=raw,
    )


def _transfer(submitter: Child, count: int) -> Any:
    return submitter.ask(do="transfer", size_bytes=LARGE_BYTES, count=count, **WORK)


async def _echo_s(port: int) -> float:
    """Return how long a large job's bytes take to an echo and back."""
    since = trio.current_time()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as side:
        side.start_soon(stream.send_all, bytes(LARGE_BYTES))
        left = LARGE_BYTES
        while left:
            left -= len(await stream.receive_some())
    return trio.current_time() - since


def _ratio(name: str, share: float, alone: list[list[float]], beside: list[list[float]]) -> Figure:
    """Return by how much latencies rise, in each round."""
    before = [percentile(latencies_s, share) * 1e3 for latencies_s in alone]
    during = [percentile(latencies_s, share) * 1e3 for latencies_s in beside]
    return figure(
        f"small_job_{name}_ratio_beside_100mb",
        "× alone",
        [one / other for one, other in zip(during, before, strict=True)],
        n=sum(map(len, beside)),
        baseline=f"alone, ms (beside: {max(during):.1f} at most)",
        baseline_rounds=before,
    )
