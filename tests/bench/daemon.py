"""Figures ``idle_rss_mb`` and ``first_result_s``: a daemon that does nothing, and one that starts.

Both are `covey up` on a second machine of a mesh, a process as a user runs it, with its hardware
measured before and its files in the disk's cache.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from tests.bench.figure import Figure, figure
from tests.bench.mesh import TRY_EVERY_S, BenchMesh, formed
from tests.bench.processes import Child, rss_mb

STARTS = 3
SETTLED_S = 5.0
WORK = {"kind": "embed", "model": "all-minilm-l6-v2"}


def figures() -> Iterator[Figure]:
    """Start the worker several times: once idle, once for a result."""
    idle_mb: list[float] = []
    first_s: list[float] = []
    with formed(WORK["model"]) as mesh:
        mesh.worker_machine.up()
        mesh.await_measured()
        mesh.worker_machine.down()
        for _ in range(STARTS):
            idle_mb.append(_idle_mb(mesh))
            first_s.append(_first_s(mesh))
    yield figure(
        "idle_rss_mb",
        "MB",
        idle_mb,
        n=STARTS,
        baseline="its imports alone",
        baseline_rounds=[_bare("idle")[1] for _ in range(STARTS)],
    )
    yield figure(
        "first_result_s",
        "s",
        first_s,
        n=STARTS,
        baseline="bare torch, one process",
        baseline_rounds=[_bare("first")[0] for _ in range(STARTS)],
    )


def _idle_mb(mesh: BenchMesh) -> float:
    mesh.worker_machine.up()
    assert mesh.worker_machine.daemon is not None
    time.sleep(SETTLED_S)
    memory = rss_mb(mesh.worker_machine.daemon.pid)
    mesh.worker_machine.down()
    return memory


def _first_s(mesh: BenchMesh) -> float:
    since = time.perf_counter()
    mesh.submitter.tell(do="try", every_s=TRY_EVERY_S, **WORK)
    mesh.worker_machine.up()
    mesh.submitter.answer()
    seconds = time.perf_counter() - since
    mesh.worker_machine.down()
    return seconds


def _bare(what: str) -> tuple[float, float]:
    """Return how long a bare process took to be ready, and its memory then."""
    since = time.perf_counter()
    bare = Child("tests.bench.bare_start", dict(os.environ), arguments=(what,))
    seconds = time.perf_counter() - since
    memory = rss_mb(bare.pid)
    bare.close()
    return seconds, memory
