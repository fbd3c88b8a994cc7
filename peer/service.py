"""Running services in nested order: what is opened first stops last."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

GC_ALLOCATIONS: Final = 2_500
"""New objects before the collector looks at them, which takes it most of a millisecond. With
Python's 700 it had to look at the jobs under way again and again; what a job leaves behind is
mostly freed by its reference counts.
"""
GC_YOUNG_RUNS: Final = 5
"""How often it does before it looks at what was left of all those times: at 12,500 objects."""
SWITCH_S: Final = 0.0005
"""How long a thread that computes (the index's) may keep the interpreter from the loop's. Python's
5 ms made every turn of a busy loop late while rows were made.
"""

Service = Callable[..., Awaitable[Any]]
"""``async def run(*, task_status)``: says when others may rely on it, and returns only when
cancelled.
"""


@asynccontextmanager
async def running(*services: Service) -> AsyncGenerator[trio.Nursery]:
    """Start ``services`` one after the other, yield their nursery, and cancel them when the block
    ends.

    A service that fails cancels the block: a daemon half of which is dead must stop, loudly.
    """
    async with trio.open_nursery() as nursery:
        for service in services:
            await nursery.start(service)
        yield nursery
        nursery.cancel_scope.cancel()


def settle() -> None:
    """Let nothing keep the loop for long: neither threads that compute, nor the garbage collector.
    What was loaded and opened so far is taken out of its sight for good: it stays anyway, and a
    walk over it would take tens of milliseconds.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, GC_YOUNG_RUNS)


async def wait_for_stop(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Return at the first SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _signal in signals:
            return
