"""Where what waits for the disk is run, so that the loop does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class OnDisk(Protocol):
    """Runs what waits for the disk somewhere, and returns what it returned."""

    async def __call__(self, call: Callable[[], T], /) -> T:
        """Run ``call``."""
        ...


class InThreads:
    """Lets the loop go on meanwhile; a virtual clock would run on, too."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(4)

    async def __call__(self, call: Callable[[], T], /) -> T:
        """Run ``call`` in a thread."""
        return await trio.to_thread.run_sync(call, limiter=self._limiter)
