"""Which outcomes a worker keeps until they are acknowledged, when not all of them fit; inputs that
it has in part are kept by the same rule.

A submitter that never acknowledges may not push out what others will come back for: whoever keeps
the most gives up its oldest, by bytes where these are too many and by number where that is. This
holds names and sizes only; the outcomes are their jobs'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocols.limits import MAX_KEPT_OUTCOMES, MAX_OUTCOME_BYTES
from protocols.session import JobKey


class KeptOutcomes:
    """What is kept, by submitter, oldest first: so many at most, and so many bytes."""

    def __init__(
        self, max_count: int = MAX_KEPT_OUTCOMES, max_bytes: int = MAX_OUTCOME_BYTES
    ) -> None:
        self.size_bytes = 0
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._count = 0
        self._sizes: dict[str, dict[JobKey, int]] = {}
        self._bytes: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, key: JobKey, size_bytes: int) -> None:
        """Keep one more, which must be new."""
        submitter = key[0]
        self._sizes.setdefault(submitter, {})[key] = size_bytes
        self._bytes[submitter] = self._bytes.get(submitter, 0) + size_bytes
        self.size_bytes += size_bytes
        self._count += 1

    def remove(self, key: JobKey) -> None:
        """Keep one less; does nothing when it is not kept."""
        submitter = key[0]
        size_bytes = self._sizes.get(submitter, {}).pop(key, None)
        if size_bytes is None:
            return
        self._bytes[submitter] -= size_bytes
        self.size_bytes -= size_bytes
        self._count -= 1
        if not self._sizes[submitter]:
            del self._sizes[submitter], self._bytes[submitter]

    def overflow(self) -> Iterator[JobKey]:
        """Remove what is too much, one by one, and return it; the last one stays whatever its
        size.
        """
        while self._count > 1 and self.size_bytes > self._max_bytes:
            yield self._give_up(self._bytes.__getitem__)
        while self._count > self._max_count:
            yield self._give_up(lambda submitter: len(self._sizes[submitter]))

    def _give_up(self, share: Callable[[str], int]) -> JobKey:
        """Remove the oldest of the submitter that has the largest share."""
        key = next(iter(self._sizes[max(self._sizes, key=share)]))
        self.remove(key)
        return key
