"""Waiting for one's turn at a runner: ``FairQueue`` decides, and here its decisions are waited
for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from node.fair_queue import MIN_INSIDE, FairQueue, Place


class Turns:
    """The turns at one runner."""

    def __init__(self, min_inside: int = MIN_INSIDE) -> None:
        self._queue = FairQueue(min_inside=min_inside)
        self._waiting: dict[Place, trio.Event] = {}

    @asynccontextmanager
    async def turn(self, submitter: str, cost_s: float | None) -> AsyncGenerator[None]:
        """Wait until a job of that submitter may enter, and be inside until the block ends."""
        place = self._queue.join(submitter, cost_s)
        self._let_in()
        try:
            if not place.is_inside:
                entered = self._waiting[place] = trio.Event()
                await entered.wait()
            yield
        finally:
            self._waiting.pop(place, None)
            self._queue.leave(place)
            self._let_in()

    def _let_in(self) -> None:
        while (place := self._queue.enter()) is not None:
            entered = self._waiting.pop(place, None)
            if entered is not None:
                entered.set()
