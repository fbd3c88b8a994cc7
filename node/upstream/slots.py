"""How many requests an upstream is sent at once; whoever waits takes turns by submitter, so that a
job of a thousand prompts holds nobody else's single one up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


class Slots:
    """``count`` places, handed on without ever being more."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = count
        self._waiting: dict[str, deque[trio.Event]] = {}
        """By submitter, in the order of their turns."""

    @asynccontextmanager
    async def slot(self, submitter: str) -> AsyncGenerator[None]:
        """Wait for a place and hold it until the block ends."""
        await self._enter(submitter)
        try:
            yield
        finally:
            self._hand_on()

    async def _enter(self, submitter: str) -> None:
        if self.free:
            self.free -= 1
            return
        entered = trio.Event()
        self._waiting.setdefault(submitter, deque()).append(entered)
        try:
            await entered.wait()
        except trio.Cancelled:
            if entered.is_set():
                self._hand_on()
            else:
                self._leave(submitter, entered)
            raise

    def _leave(self, submitter: str, entered: trio.Event) -> None:
        self._waiting[submitter].remove(entered)
        if not self._waiting[submitter]:
            del self._waiting[submitter]

    def _hand_on(self) -> None:
        """Give a place to the submitter whose turn it is; its next request waits for all others'
        turns.
        """
        submitter = next(iter(self._waiting), None)
        if submitter is None:
            self.free += 1
            return
        waiting = self._waiting.pop(submitter)
        waiting.popleft().set()
        if waiting:
            self._waiting[submitter] = waiting
