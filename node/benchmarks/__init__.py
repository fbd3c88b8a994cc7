"""What may be benchmarked: a kind of benchmark, and the kinds of models that it takes.

A benchmark is a job like any other and names a model. Those of processor, memory and network name
``machine``, which every covey has; ``bench.model`` names any model of a kind that it knows how to
drive, and computes with it as that kind does, in a runner of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from node.models import InstalledModel
    from protocols.cid import CID

MACHINE: Final = "machine"
"""The model, and the kind, that stand for the machine itself."""

COMPUTE: Final = "bench.compute"
MEMORY: Final = "bench.memory"
MODEL: Final = "bench.model"
NETWORK: Final = "bench.network"

TAKES: Final[dict[str, frozenset[str]]] = {
    COMPUTE: frozenset({MACHINE}),
    MEMORY: frozenset({MACHINE}),
    NETWORK: frozenset({MACHINE}),
    MODEL: frozenset({"embed"}),
}
"""The kinds of models that each benchmark can be run on."""


def is_benchmark(kind: str) -> bool:
    """Whether jobs of this kind answer figures."""
    return kind in TAKES


def serves(model_kind: str, kind: str) -> bool:
    """Whether a model of ``model_kind`` does for jobs of ``kind``."""
    return model_kind == kind or model_kind in TAKES.get(kind, ())


def cid_of(model: InstalledModel) -> CID | None:
    """Return the model that a run used; the machine itself is none."""
    return None if model.name == MACHINE else model.cid


def as_kind(model: InstalledModel, kind: str) -> InstalledModel:
    """Return ``model`` as jobs of ``kind`` see it: for a benchmark that takes it, it is of that
    kind.
    """
    return replace(model, kind=kind) if serves(model.kind, kind) else model
