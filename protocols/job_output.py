"""The output of one job as its submitter takes it in, over all attempts.

When an attempt is lost in the middle of its output, what came is kept. If the next attempt is at
the same worker, that one is told how much is here, with its digest, and goes on behind it if its
output begins so; else it sends all of it. What another worker sends begins anew. The digests of all
pieces run from the first byte, so that an output is the one that was committed to, or none.
"""

from __future__ import annotations

from protocols.limits import MAX_JOB_OUTPUT_BYTES
from protocols.pieces import NOTHING, Held, Incoming, Piece


class JobOutput:
    """What came of an output under ``salt``. Holds two at most: that of the attempt, and what was
    kept of the one before until the first piece of the attempt is here.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._content = Incoming(salt, MAX_JOB_OUTPUT_BYTES)
        self._worker = ""
        self._kept: Incoming | None = None
        self._kept_from = ""

    @property
    def has_begun(self) -> bool:
        """Whether something of it came in this attempt."""
        return self._content.count > 0

    @property
    def size_bytes(self) -> int:
        """How much of it came in this attempt, with what it went on from."""
        return self._content.size_bytes

    def begin(self, worker: str) -> Held:
        """An attempt at ``worker`` begins; return what of its output it need not send again."""
        if self._content.count:
            self._kept, self._kept_from = self._content, self._worker
            self._content = Incoming(self._salt, MAX_JOB_OUTPUT_BYTES)
        self._worker = worker
        resumable = self._resumable
        return resumable.held if resumable else NOTHING

    def add(self, piece: Piece) -> bool:
        """Take a piece and tell whether it is new; raise ``RemoteProtocolError`` for one that does
        not follow on what is here.
        """
        content = self._content
        if not content.count and (kept := self._resumable):
            content = kept if piece.index == kept.count else content
        had_bytes = self._content.size_bytes
        content.add(piece)
        self._content, self._kept = content, None
        return content.size_bytes > had_bytes

    def is_whole(self, size_bytes: int, cid: bytes) -> bool:
        """Whether exactly the output of that size and commitment is here."""
        if not self._content.count and (kept := self._resumable):
            self._content, self._kept = kept, None  # only the end of it had not come
        return self._content.holds(size_bytes) and self._content.cid == cid

    def content(self) -> bytes:
        """Return what came in this attempt, with what it went on from."""
        return self._content.content()

    @property
    def _resumable(self) -> Incoming | None:
        return self._kept if self._kept_from == self._worker else None
