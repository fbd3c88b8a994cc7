"""Figures ``sandbox_setup_ms`` and ``sandbox_slowdown``: what it costs to confine a runner.

Set-up is CPU in fresh processes, for one confines itself once; it waits for nothing. The slowdown
is the CPU of the same sentences in two warm runners, one confined strictly and one not, in turn.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trio

from node.models import ModelStore
from node.run_request import RunRequest
from node.runner.kinds import embed
from node.runner.sandbox import BASIC, OFF, STRICT, lacking
from node.runners import RunnerPool
from peer.effects import system_effects
from tests.bench.figure import Figure, figure
from tests.bench.processes import ROOT
from tests.bench.texts import sentences

MODEL = "all-minilm-l6-v2"
STARTS = 15
ROUNDS = 8
SENTENCES = 96
SET_UP = """
import sys, time
from pathlib import Path
from node.runner.sandbox import confine
began = time.process_time()
confine(sys.argv[1], Path(sys.argv[2]))
print((time.process_time() - began) * 1e3)
"""


def figures() -> Iterator[Figure]:
    """Measure where there is a strict sandbox; elsewhere there is no figure."""
    if lacking():
        return
    with tempfile.TemporaryDirectory(prefix="covey-bench-") as folder:
        store = ModelStore(Path(folder) / "models")
        model = store.add(MODEL)
        levels = (STRICT, BASIC)
        rounds = [[_set_up_ms(level, model.path) for level in levels] for _ in range(STARTS)]
        strict, basic = zip(*rounds, strict=True)
        yield figure(
            "sandbox_setup_ms",
            "ms CPU",
            strict,
            n=STARTS,
            baseline="the level basic",
            baseline_rounds=basic,
        )
        confined, free = trio.run(_cpu_ms, store)
        yield figure(
            "sandbox_slowdown",
            "× CPU unconfined",
            [one / other for one, other in zip(confined, free, strict=True)],
            n=ROUNDS * SENTENCES,
            baseline="the same runner without a sandbox",
            baseline_rounds=[1.0],
        )


def _set_up_ms(level: str, folder: Path) -> float:
    command = [sys.executable, "-c", SET_UP, level, str(folder)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


async def _cpu_ms(store: ModelStore) -> tuple[list[float], list[float]]:
    """Return the CPU of each round, confined and not, of which every other begins unconfined."""
    spent: dict[str, list[float]] = {STRICT: [], OFF: []}
    pools = {level: RunnerPool(store, system_effects(), sandbox=level) for level in spent}
    async with trio.open_nursery() as nursery:
        for pool in pools.values():
            await nursery.start(pool.serve)
            await _embed_ms(pool, 0)
        for seed in range(1, ROUNDS + 1):
            for level in list(pools)[:: 1 if seed % 2 else -1]:
                spent[level].append(await _embed_ms(pools[level], seed))
        for pool in pools.values():
            await pool.aclose()
    return spent[STRICT], spent[OFF]


async def _embed_ms(pool: RunnerPool, seed: int) -> float:
    content = embed.encode_input(sentences(SENTENCES, seed))
    outcome = await pool.run(RunRequest(MODEL, "embed", "fp32", content, SENTENCES))
    return float(outcome.timings["cpu_ms"])
