"""What may be benchmarked.

A benchmark is a job like any other and names a model. Those of processor, memory and network name
``machine``, which every covey has; ``bench.model`` names any model of a kind that it knows how to
drive, and computes with it as that kind does, in a runner of its own. Which models a benchmark can
be run on, its kind's module says as every other's does (``MODEL_KINDS``).
"""

from __future__ import annotations

from typing import Final

MACHINE: Final = "machine"
"""The model, and the kind, that stand for the machine itself."""

COMPUTE: Final = "bench.compute"
MEMORY: Final = "bench.memory"
MODEL: Final = "bench.model"
NETWORK: Final = "bench.network"

BENCHMARKS: Final = frozenset({COMPUTE, MEMORY, MODEL, NETWORK})
OF_MACHINE: Final = frozenset({COMPUTE, MEMORY})
"""Those whose runners may use every core: what computes with all of them is what is measured."""


def is_benchmark(kind: str) -> bool:
    """Whether jobs of this kind answer figures."""
    return kind in BENCHMARKS
