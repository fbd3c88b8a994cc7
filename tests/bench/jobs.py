"""Figures ``job_noop_…``: what a job costs that computes nothing, beside a raw TCP echo.

A submitter and a worker, each a process as ``covey up`` runs it, and a runner process: every job is
offered, leased, sent, run in the runner, committed to, recorded three times and acknowledged. The
CPU is that of all three processes, their indices included. The records are counted in the journals
afterwards.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import trio

from peer.journal import Journal
from protocols.journal import Entry, RecordBody
from protocols.record import Record
from tests.bench.figure import Figure, figure, percentile
from tests.bench.mesh import TRY_EVERY_S, BenchMesh, formed
from tests.bench.processes import Child, child, cpu_s

ROUNDS = 5
ROUND_S = 3.0
CONCURRENCIES = (1, 16, 64)
ECHO_S = 1.0
WORK = {"kind": "bench.noop", "model": "noop"}
Round = tuple[float, float, float, float]
"""CPU-milliseconds a job, jobs a second, median and 99th percentile in milliseconds."""
RECORDS_A_JOB = {"job.submitted": 1, "job.run": 1, "job.accepted": 1}


def figures() -> Iterator[Figure]:
    """Run jobs and echoes in turn."""
    with formed("noop") as mesh, child("tests.bench.echo") as echo:
        worker = mesh.start_worker()
        mesh.submitter.ask(do="try", every_s=TRY_EVERY_S, **WORK)
        mesh.await_measured()
        done = 1 + _run(mesh.submitter, 64)[0]  # what was tried, and the caches are warm
        for concurrency in CONCURRENCIES:
            measured, count = _measured(mesh, worker, echo, concurrency)
            yield from measured
            done += count
        late, count = _stalled(mesh, worker)
        mesh.close()
        yield late
        yield _recorded(mesh, done + count)


def _measured(
    mesh: BenchMesh, worker: Child, echo: Child, concurrency: int
) -> tuple[list[Figure], int]:
    """Return the figures at one concurrency, and how many jobs they took."""
    ours: list[Round] = []
    raw: list[Round] = []
    n = 0
    for _ in range(ROUNDS):
        before = cpu_s(mesh.submitter.pid, worker.pid)
        count, wall_s, latencies_s = _run(mesh.submitter, concurrency)
        ours.append(_round(cpu_s(mesh.submitter.pid, worker.pid) - before, wall_s, latencies_s))
        raw.append(trio.run(_echoes, echo, concurrency))
        n += count
    name = f"c{concurrency}"
    names = (
        (f"job_noop_cpu_ms_{name}", "ms CPU"),
        (f"job_noop_s_{name}", "jobs/s"),
        ("job_noop_p50_ms" if concurrency == 1 else f"job_noop_p50_ms_{name}", "ms"),
        (f"job_noop_p99_ms_{name}", "ms"),
    )
    columns = zip(names, zip(*ours, strict=True), zip(*raw, strict=True), strict=True)
    base = "raw trio TCP echo"
    return [
        figure(name, unit, values, n=n, baseline=base, baseline_rounds=baselines)
        for (name, unit), values, baselines in columns
    ], n


def _run(submitter: Child, concurrency: int) -> tuple[int, float, list[float]]:
    """Run jobs for a round; return how many, and the times of all and of each."""
    answer = submitter.ask(do="jobs", seconds=ROUND_S, concurrency=concurrency, **WORK)
    return len(answer["latencies_s"]), answer["wall_s"], answer["latencies_s"]


def _round(cpu: float, wall_s: float, latencies_s: list[float]) -> Round:
    count = len(latencies_s)
    p50, p99 = (percentile(latencies_s, share) * 1e3 for share in (0.5, 0.99))
    return cpu / count * 1e3, count / wall_s, p50, p99


async def _echoes(server: Child, concurrency: int) -> Round:
    """Send 256 bytes forth and back, so many at once, each on its own connection."""
    end = trio.current_time() + ECHO_S
    latencies_s: list[float] = []
    payload = b"x" * 256

    async def client() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", server.ready["port"]) as stream:
            while trio.current_time() < end:
                since = trio.current_time()
                await stream.send_all(payload)
                await stream.receive_some()
                latencies_s.append(trio.current_time() - since)

    before, began = cpu_s(server.pid) + time.process_time(), trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(concurrency):
            nursery.start_soon(client)
    cpu = cpu_s(server.pid) + time.process_time() - before
    return _round(cpu, trio.current_time() - began, latencies_s)


def _stalled(mesh: BenchMesh, worker: Child) -> tuple[Figure, int]:
    """How late the worker's loop is while sixteen jobs are under way, beside an idle one."""
    idle = worker.ask(do="stall", seconds=ROUND_S)
    worker.tell(do="stall", seconds=ROUND_S)
    count, *_ = _run(mesh.submitter, 16)
    late = worker.answer()
    return figure(
        "loop_stall_p99_ms_noop_c16",
        "ms",
        [percentile(late, 0.99) * 1e3],
        n=len(late),
        baseline="the same node, idle",
        baseline_rounds=[percentile(idle, 0.99) * 1e3],
    ), count


def _recorded(mesh: BenchMesh, jobs: int) -> Figure:
    """Count the records of every job in both journals; raise unless all are there, once."""
    machines = (mesh.submitter_machine, mesh.worker_machine)
    found = sum((_count(machine.home / "journal") for machine in machines), Counter[str]())
    expected = {kind: count * jobs for kind, count in RECORDS_A_JOB.items()}
    if {kind: found[kind] for kind in expected} != expected:
        raise RuntimeError(f"{jobs} jobs left {found}")
    total = sum(expected.values())
    return figure(
        "job_noop_records",
        "records/job",
        [total / jobs],
        n=total,
        baseline="promised",
        baseline_rounds=[sum(RECORDS_A_JOB.values())],
    )


def _count(path: Path) -> Counter[str]:
    journal = Journal.open(path)
    try:
        return Counter(
            Record.decode_verified(RecordBody.decode(body).record).kind
            for _, _, kind, body in journal.scan()
            if kind is Entry.RECORD
        )
    finally:
        journal.close()
