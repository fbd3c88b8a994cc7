"""What a client was given of an output while it came into being, over all attempts at the job.

An attempt begins its output anew, or goes on with that of an attempt before. What it repeats of
what the client has is checked and not given again. Where it differs, since the next worker computes
in another way, the client must forget what it has and begin again, too.
"""

from __future__ import annotations


class OutputStream:
    """Begins empty; ``add`` is called for all that comes, in each attempt in its order."""

    def __init__(self) -> None:
        self._given = bytearray()

    def add(self, start: int, body: bytes) -> tuple[bool, bytes]:
        """Take what came behind the first ``start`` bytes of the attempt's output, which came here
        too, in it or in that which it goes on with; return whether the client must begin again, and
        what is new to it.
        """
        expected = self._given[start : start + len(body)]
        if not body.startswith(expected):
            self._given[start:] = body
            return True, bytes(self._given)
        new = body[len(expected) :]
        self._given += new
        return False, new
