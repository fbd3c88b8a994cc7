"""Figures ``record_emit_…``: how fast records are on the disk, beside lines of JSON that are."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from peer.effects import system_effects
from peer.feeds import Feeds
from peer.journal import Journal
from peer.recorder import Recorder
from peer.service import running
from protocols.cid import CID
from protocols.keys import SigningKey
from tests.bench.figure import Figure, figure, percentile

ROUNDS = 5
RECORDS = 4_000
ALONE = 300
WRITERS = 64
LINK = CID.of(b"some input")


def figures() -> Iterator[Figure]:
    """Measure 64 writers together, one alone, and one that writes JSON lines."""
    with tempfile.TemporaryDirectory(prefix="covey-bench-") as folder:
        together, alone, lines = zip(
            *(_round(Path(folder), number) for number in range(ROUNDS)), strict=True
        )
    rates, cpu_ms, busy_p99_ms = zip(*together, strict=True)
    p50_ms, p99_ms = zip(*alone, strict=True)
    line_rates, line_cpu_ms, line_p50_ms, line_p99_ms = zip(*lines, strict=True)
    n, base = ROUNDS * RECORDS, "JSONL, fsync a line"
    yield figure(
        "record_emit_s", "records/s", rates, n=n, baseline=base, baseline_rounds=line_rates
    )
    yield figure(
        "record_emit_cpu_ms", "ms CPU", cpu_ms, n=n, baseline=base, baseline_rounds=line_cpu_ms
    )
    yield figure("record_emit_p99_ms", "ms", busy_p99_ms, n=n)
    n = ROUNDS * ALONE
    yield figure(
        "record_emit_alone_p50_ms", "ms", p50_ms, n=n, baseline=base, baseline_rounds=line_p50_ms
    )
    yield figure(
        "record_emit_alone_p99_ms", "ms", p99_ms, n=n, baseline=base, baseline_rounds=line_p99_ms
    )


def _round(folder: Path, number: int) -> tuple[tuple[float, float], ...]:
    together = trio.run(_together, folder / f"together-{number}")
    alone = trio.run(_alone, folder / f"alone-{number}")
    return together, alone, _json_lines(folder / f"lines-{number}")  # type: ignore[return-value]


async def _together(path: Path) -> tuple[float, float, float]:
    left = iter(range(RECORDS))
    times_ms: list[float] = []

    async def writer(recorder: Recorder) -> None:
        for number in left:
            since = time.perf_counter()
            await _emit(recorder, number)
            times_ms.append((time.perf_counter() - since) * 1e3)

    journal, feeds, recorder = _opened(path)
    async with running(journal.run, feeds.run):
        began, cpu = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            for _ in range(WRITERS):
                nursery.start_soon(writer, recorder)
        rate = RECORDS / (time.perf_counter() - began)
        cpu = time.process_time() - cpu
    journal.close()
    return rate, cpu / RECORDS * 1e3, percentile(times_ms, 0.99)


async def _alone(path: Path) -> tuple[float, float]:
    journal, feeds, recorder = _opened(path)
    times_ms: list[float] = []
    async with running(journal.run, feeds.run):
        for number in range(ALONE):
            since = time.perf_counter()
            await _emit(recorder, number)
            times_ms.append((time.perf_counter() - since) * 1e3)
    journal.close()
    return percentile(times_ms, 0.5), percentile(times_ms, 0.99)


def _opened(path: Path) -> tuple[Journal, Feeds, Recorder]:
    journal, effects = Journal.open(path), system_effects()
    feeds = Feeds(journal, SigningKey.from_seed(b"r" * 32), effects)
    return journal, feeds, Recorder(feeds, effects, environment=LINK, hardware=LINK)


async def _emit(recorder: Recorder, number: int) -> None:
    await recorder.activity(
        "job.accepted",
        used=[(LINK, "output")],
        informed_by=[LINK, LINK],
        start_us=1_790_000_000_000_000 + number,
        duration_us=1_000,
        attributes={
            "job_id": number.to_bytes(16, "big"),
            "fence": 1,
            "worker": "12D3Koo" + "x" * 45,
        },
    )


def _json_lines(path: Path) -> tuple[float, float, float, float]:
    """Write the same statement, a line and an fsync each, as a tool without a journal would."""
    link, times_ms = str(LINK), list[float]()
    began, cpu = time.perf_counter(), time.process_time()
    with path.open("ab", buffering=0) as file:
        for number in range(ALONE):
            since = time.perf_counter()
            statement = {
                "kind": "job.accepted",
                "used": [[link, "output"]],
                "informed_by": [link, link],
                "environment": link,
                "hardware": link,
                "start_us": 1_790_000_000_000_000 + number,
                "attributes": {"job_id": f"{number:032x}", "fence": 1, "worker": "x" * 52},
            }
            file.write(json.dumps(statement).encode() + b"\n")
            os.fdatasync(file.fileno())
            times_ms.append((time.perf_counter() - since) * 1e3)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return ALONE / wall, cpu / ALONE * 1e3, percentile(times_ms, 0.5), percentile(times_ms, 0.99)
