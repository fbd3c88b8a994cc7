"""What a client was given of an output while it came into being, over all attempts at the job.

An attempt begins its output anew. What it repeats of what the client has is checked and not given
again. Where it differs, since the next worker computes in another way, the client must forget what
it has and begin again, too.
"""

from __future__ import annotations


class OutputStream:
    """Begins empty; ``begin`` is called for each attempt, ``add`` for what comes of it."""

    def __init__(self) -> None:
        self._given = bytearray()
        self._repeated_bytes = 0

    def begin(self) -> None:
        """Another attempt begins."""
        self._repeated_bytes = 0

    def add(self, body: bytes) -> tuple[bool, bytes]:
        """Take what came; return whether the client must begin again, and what is new to it."""
        start = self._repeated_bytes
        expected = self._given[start : start + len(body)]
        if not body.startswith(expected):
            self._given[start:] = body
            self._repeated_bytes = len(self._given)
            return True, bytes(self._given)
        new = body[len(expected) :]
        self._given += new
        self._repeated_bytes += len(body)
        return False, new
