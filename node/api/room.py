"""How much the API's clients may have under way at once: so many requests, so many bytes of them.

Past either, a client is told to come back, so that nothing it sends makes the daemon grow.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from protocols.errors import Refused

MAX_API_REQUESTS: Final = 64  # more clients at once would only wait for the same workers
MAX_API_HELD_BYTES: Final = 256 << 20  # of all bodies; a job's input is held until it is done
RETRY_AFTER_MS: Final = 1_000


class Room:
    """What is taken now, of ``requests`` and ``held_bytes``."""

    def __init__(
        self, requests: int = MAX_API_REQUESTS, held_bytes: int = MAX_API_HELD_BYTES
    ) -> None:
        self._requests = requests
        self._bytes = held_bytes

    @contextmanager
    def request(self) -> Generator[Held]:
        """Take room for one request until the block ends; raises ``Refused``."""
        if self._requests == 0:
            raise busy("so many requests are under way that this one has no room")
        self._requests -= 1
        held = Held(self)
        try:
            yield held
        finally:
            self._requests += 1
            self._bytes += held.size_bytes

    def take(self, size_bytes: int) -> None:
        """Take room for bytes; raises ``Refused``."""
        if size_bytes > self._bytes:
            raise busy("the requests under way are so large that this one has no room")
        self._bytes -= size_bytes


class Held:
    """The bytes of one request."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.size_bytes = 0

    def grow(self, size_bytes: int) -> None:
        """Take room for more bytes; raises ``Refused``."""
        self._room.take(size_bytes)
        self.size_bytes += size_bytes


def busy(reason: str) -> Refused:
    """Return the refusal of a request that has no room now."""
    return Refused(reason, code="busy", retry_after_ms=RETRY_AFTER_MS)
