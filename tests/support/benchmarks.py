"""Benchmarks without measuring: figures of given samples, and what records state of them."""

from __future__ import annotations

from typing import Any

import trio

from node.benchmarks.statement import Statement
from protocols.benchmark import Figure, figure_of


class FakeMachine:
    """A machine that was measured already, unless ``measured`` is replaced."""

    def __init__(self) -> None:
        self.learned: list[Figure] = []
        self.measured = trio.Event()
        self.measured.set()

    async def until_measured(self) -> None:
        await self.measured.wait()

    async def benchmarked(self, figures: tuple[Figure, ...]) -> None:
        self.learned.extend(figures)


def figure(name: str, *samples: float, is_higher_better: bool = True) -> Figure:
    """A figure of these samples."""
    return figure_of(name, samples, is_higher_better=is_higher_better)


def statement(**changes: Any) -> Statement:
    """A benchmark as a record states it, with what is usual unless told otherwise."""
    usual: dict[str, Any] = {
        "kind": "bench.compute",
        "model": "machine",
        "precision": "none",
        "worker": "12D3KooWworker",
        "submitter": "12D3KooWsubmitter",
        "job_id": b"j" * 16,
        "parameters": {"seconds": 0.5, "size": 768},
        "figures": (figure("matmul_fp32_one_thread_gflops", 10.0),),
        "execution": {"engine": "torch 2.13.0", "threads": 2},
        "machine": {"cores": 2},
        "software": "covey 0.1.0",
    }
    return Statement(**{**usual, **changes})


def row(*figures: Figure, **changes: Any) -> dict[str, Any]:
    """A benchmark as commands get it."""
    return statement(**({"figures": figures} if figures else {}), **changes).told()
