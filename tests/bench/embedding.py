"""Figures ``embed_cpu_ratio`` and ``embed_cpu_ratio_bf16``: what the mesh costs around the model.

CPU of submitter, worker and runner a sentence, beside bare torch in fp32 at the best of three batch
sizes. Both get the same sentences in turn, in the same number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator

from node.runner.host import cpu_flags
from tests.bench.figure import Figure, figure
from tests.bench.mesh import TRY_EVERY_S, BenchMesh, formed
from tests.bench.processes import Child, child, cpu_s
from tests.bench.texts import sentences

ROUNDS = 3
SENTENCES = 96
TRIED = 48
"""Sentences to choose the baseline's batch size by, and to start a precision's runner with."""
SENTENCES_A_JOB = 24
CONCURRENCY = 4
BATCH_TOKENS = (512, 768, 1_024)
WORK = {"kind": "embed", "model": "all-minilm-l6-v2"}
BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def figures() -> Iterator[Figure]:
    """Measure fp32, and bf16 where this CPU multiplies in it."""
    precisions = ("fp32", "bf16") if cpu_flags() & BF16 else ("fp32",)
    with formed(WORK["model"]) as mesh, child("tests.bench.bare_torch") as bare:
        mesh.start_worker()
        mesh.submitter.ask(do="try", every_s=TRY_EVERY_S, **WORK)
        mesh.await_measured()
        budget = min(BATCH_TOKENS, key=lambda tokens: _bare_ms(bare, 0, tokens, TRIED))
        for precision in precisions:
            _mesh_ms(mesh, 0, precision, TRIED)
        ours: dict[str, list[float]] = {precision: [] for precision in precisions}
        base: list[float] = []
        for seed in range(1, ROUNDS + 1):
            base.append(_bare_ms(bare, seed, budget))
            for precision in precisions:
                ours[precision].append(_mesh_ms(mesh, seed, precision))
        for precision in precisions:
            yield _ratio(precision, ours[precision], base, budget)


def _ratio(precision: str, ours: list[float], base: list[float], budget: int) -> Figure:
    """Return the ratio of each round, whose sentences were the same."""
    ratios = [one / other for one, other in zip(ours, base, strict=True)]
    return figure(
        "embed_cpu_ratio" if precision == "fp32" else f"embed_cpu_ratio_{precision}",
        "× bare CPU",
        ratios,
        n=ROUNDS * SENTENCES,
        baseline=f"bare torch fp32, batches of {budget} tokens",
        baseline_rounds=[1.0],
    )


def _bare_ms(bare: Child, seed: int, batch_tokens: int, count: int = SENTENCES) -> float:
    texts = sentences(count, seed)
    return bare.ask(texts=texts, batch_tokens=batch_tokens)["cpu_s"] / count * 1e3


def _mesh_ms(mesh: BenchMesh, seed: int, precision: str, count: int = SENTENCES) -> float:
    texts = sentences(count, seed)
    jobs = [texts[at : at + SENTENCES_A_JOB] for at in range(0, count, SENTENCES_A_JOB)]
    assert mesh.worker is not None
    pids = mesh.submitter.pid, mesh.worker.pid
    before = cpu_s(*pids)
    mesh.submitter.ask(do="jobs", texts=jobs, concurrency=CONCURRENCY, precision=precision, **WORK)
    return (cpu_s(*pids) - before) / count * 1e3
