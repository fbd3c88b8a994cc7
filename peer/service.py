"""Running services in nested order: what is opened first stops last."""

from __future__ import annotations

import gc
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

GC_ALLOCATIONS: Final = 10_000
"""New objects before the collector looks at them. Python's 700 had it run sixty times a thousand
jobs; what a job leaves behind is mostly freed by its reference counts.
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


def settle_memory() -> None:
    """Take what was loaded and opened so far out of the garbage collector's sight, for good: it
    stays anyway, and a walk over it would stall the loop for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)


async def wait_for_stop(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Return at the first SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _signal in signals:
            return
