"""An entry on its way to a journal's disk, and who waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from peer.journal_errors import JournalError

log = logging.getLogger(__name__)

Done = Callable[["int | JournalError"], None]
"""Told the entry's offset once it is on the disk, or why it never will be."""


class Pending:
    """An entry on its way to the disk."""

    __slots__ = ("_done", "_outcome", "_settled", "encoded", "grow", "joined_bytes")

    def __init__(
        self, encoded: bytes, done: Done | None = None, grow: Callable[[], bytes] | None = None
    ) -> None:
        self.encoded = encoded
        self.grow = grow
        """Returns what is to be written, asked for at the last moment; then there is no
        ``encoded`` yet."""
        self.joined_bytes = 0
        """How many bytes it is known to have grown by."""
        self._done = done
        self._outcome: int | JournalError | None = None
        self._settled: trio.Event | None = None  # made by the first who waits: many are not waited

    @property
    def is_growing(self) -> bool:
        """Whether something may still join it: it is neither being written nor refused."""
        return self.grow is not None

    async def wait(self) -> int:
        """Return the entry's offset once it is on the disk; raises ``JournalError`` if it was
        refused.
        """
        if self._outcome is not None:
            await trio.lowlevel.checkpoint()
        else:
            if self._settled is None:
                self._settled = trio.Event()
            await self._settled.wait()
        if isinstance(self._outcome, int):
            return self._outcome
        raise self._outcome or JournalError("an entry was settled without an outcome")

    def settle(self, outcome: int | JournalError) -> None:
        """Say what became of the entry; the journal's to call."""
        self._outcome, self.grow = outcome, None
        if self._done is not None:
            self._done(outcome)
        elif isinstance(outcome, JournalError):
            log.warning("journal entry refused", extra={"code": outcome.code})
        if self._settled is not None:
            self._settled.set()
