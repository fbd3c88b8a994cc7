"""The beginning of a job's output, told while the job still runs, each byte once.

A runner may be stopped under a job that it shares with another; the job then runs again in a fresh
one, and says again what it has said. Whoever listens must not notice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocols.errors import JobFailed

DIVERGED: Final = "runner-diverged"

OnPiece = Callable[[bytes], None]


def ignore_piece(_piece: bytes) -> None:
    """For jobs whose output nobody waits for before it is whole."""


class ToldPieces:
    """Passes on to ``on_piece`` what was not told before. ``begin`` before every run."""

    def __init__(self, on_piece: OnPiece) -> None:
        self._on_piece = on_piece
        self._told = bytearray()
        self._at = 0

    def begin(self) -> None:
        """The job runs from its beginning."""
        self._at = 0

    def add(self, piece: bytes) -> None:
        """Take in the next piece of this run; raises ``JobFailed`` where it says something else
        than the run before it.
        """
        known = self._told[self._at : self._at + len(piece)]
        if not piece.startswith(known):
            raise _diverged()
        rest = piece[len(known) :]
        self._at += len(piece)
        if rest:
            self._told += rest
            self._on_piece(rest)

    def check(self, output: bytes) -> None:
        """Raise ``JobFailed`` unless what was told is the beginning of ``output``."""
        if not output.startswith(self._told):
            raise _diverged()


def _diverged() -> JobFailed:
    return JobFailed(
        "the job ran again and its output began otherwise than what was told already",
        code=DIVERGED,
    )
