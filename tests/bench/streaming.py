"""Figure ``stream_cpu_ms_32_tokens``: what it costs the two daemons that a client sees a text grow.

One job of ``generate`` at a time, streamed and not, in turn; the CPU is that of the submitter's and
the worker's daemon, without the runner, which computes the same tokens either way.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.figure import Figure, figure
from tests.bench.mesh import BenchMesh, formed

ROUNDS = 5
MODEL = "smollm2"
TOKENS = 128
UNIT_TOKENS = 32
PROMPT = "Once upon a time there was a"  # it goes on about it for all the tokens that it may


def figures() -> Iterator[Figure]:
    """Run jobs of both ways in turn, and weigh each pair against itself."""
    with formed(MODEL) as mesh:
        mesh.start_worker()
        mesh.submitter_machine.until(lambda: _is_offered(mesh), "hear of the model")
        mesh.await_measured()
        _cpu_ms(mesh, streams=True)
        rounds = [
            (_cpu_ms(mesh, streams=True), _cpu_ms(mesh, streams=False)) for _ in range(ROUNDS)
        ]
    yield figure(
        "stream_cpu_ms_32_tokens",
        "ms CPU",
        [ours - base for ours, base in rounds],
        n=ROUNDS * TOKENS,
        baseline="all of the same job, not streamed",
        baseline_rounds=[base for _, base in rounds],
    )


def _is_offered(mesh: BenchMesh) -> bool:
    return any(MODEL in row["models"] for row in mesh.submitter_machine.json("peers"))


def _cpu_ms(mesh: BenchMesh, *, streams: bool) -> float:
    """Return what 32 tokens of one job took in both daemons."""
    assert mesh.worker is not None
    nodes = mesh.submitter, mesh.worker
    before = sum(node.ask(do="cpu") for node in nodes)
    answer = mesh.submitter.ask(
        do="texts", model=MODEL, prompt=PROMPT, tokens=TOKENS, streams=streams
    )
    took_s = sum(node.ask(do="cpu") for node in nodes) - before
    if answer["tokens"] != TOKENS or (answer["pieces"] > 0) != streams:
        raise RuntimeError(f"a job that does not show what it costs: {answer}")
    return took_s * 1e3 / TOKENS * UNIT_TOKENS
