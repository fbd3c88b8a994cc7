"""Records that are named by others and not here: who is asked for which, when, and how often. Pure.

Whoever asks tells when it did; nothing here reads a clock. Every record is tried a bounded number
of times, with growing pauses, and what was given up or never taken up is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from protocols.keys import PeerId
from protocols.limits import MAX_DANGLING, MAX_SEEK_TRIES, SEEK_RETRY_S_MAX, SEEK_RETRY_S_MIN


@dataclass(slots=True)
class _Sought:
    """``peer`` is who made the record; nobody where that is not known."""

    peer: PeerId | None
    next_at: float
    tries: int = 0


class Dangling:
    """Records that are sought, by their digests."""

    def __init__(self) -> None:
        self._sought: dict[bytes, _Sought] = {}
        self._given_up: set[bytes] = set()
        self.tries = 0
        """Questions about one record each, so far."""
        self.found = 0
        self.given_up = 0
        """Records that nobody had in ``MAX_SEEK_TRIES`` tries."""
        self.passed_over = 0
        """Records that came when as many were sought as may be at once."""

    def __len__(self) -> int:
        return len(self._sought)

    def want(self, digest: bytes, at: float, peer: PeerId | None = None) -> None:
        """Seek a record from ``at`` on; again changes nothing, nor after it was given up."""
        if digest in self._sought or digest in self._given_up:
            return
        if len(self._sought) >= MAX_DANGLING:
            self.passed_over += 1
            return
        self._sought[digest] = _Sought(peer, at)

    def settle(self, digests: Iterable[bytes]) -> None:
        """These records are here."""
        for digest in digests:
            if self._sought.pop(digest, None) is not None:
                self.found += 1

    def keep_only(self, digests: Collection[bytes]) -> None:
        """Forget all but these: the rest came by another way."""
        self._given_up &= set(digests)
        for digest in self._sought.keys() - set(digests):
            del self._sought[digest]

    def due(self, now: float) -> dict[PeerId | None, list[bytes]]:
        """Return what to ask for now, the longest sought first, by who made it."""
        due: dict[PeerId | None, list[bytes]] = {}
        for digest, sought in self._sought.items():
            if sought.next_at <= now:
                due.setdefault(sought.peer, []).append(digest)
        return due

    def next_at(self) -> float | None:
        """Return when the next record is due, if any is sought."""
        return min((sought.next_at for sought in self._sought.values()), default=None)

    def tried(self, digests: Iterable[bytes], now: float) -> None:
        """These were asked for. Those that are still sought wait longer each time."""
        for digest in digests:
            self.tries += 1
            sought = self._sought.get(digest)
            if sought is None:
                continue
            sought.next_at = now + min(SEEK_RETRY_S_MIN * 2**sought.tries, SEEK_RETRY_S_MAX)
            sought.tries += 1
            if sought.tries >= MAX_SEEK_TRIES:
                del self._sought[digest]
                self.given_up += 1
                if len(self._given_up) < MAX_DANGLING:
                    self._given_up.add(digest)


def spread(digests: list[bytes], count: int) -> list[bytes]:
    """Return ``count`` of ``digests`` from all over the list: neighbours share a bundle."""
    step = max(1, -(-len(digests) // count))
    return digests[::step]
