"""Which outcomes a worker keeps until they are acknowledged, when not all of them fit; inputs that
it has in part are kept by the same rule.

A submitter that never acknowledges may not push out what others will come back for: whoever keeps
the most gives up its oldest, by bytes where these are too many and by number where that is. What is
on its way to its submitter goes after what waits for one, and what has just come goes last. This
holds names and sizes only; the outcomes are their jobs'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, filterfalse

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

    def overflow(
        self,
        newest: JobKey | None = None,
        is_wanted: Callable[[JobKey], bool] = lambda _: False,
    ) -> Iterator[JobKey]:
        """Remove what is too much, one by one, and return it; the last one stays whatever its
        size, and ``newest`` as long as there is another.

        Only who keeps more than an even share gives something up, the largest first, and of this
        what is wanted right now after the rest.
        """
        while self._count > 1 and self.size_bytes > self._max_bytes:
            share = self._bytes.__getitem__
            yield self._give_up(self._by_share(share, self._max_bytes), newest, is_wanted)
        while self._count > self._max_count:
            ranked = self._by_share(lambda submitter: len(self._sizes[submitter]), self._max_count)
            yield self._give_up(ranked, newest, is_wanted)

    def _by_share(self, share: Callable[[str], int], limit: int) -> tuple[list[str], list[str]]:
        """Return the submitters over an even share of ``limit``, and the others, each with the
        largest first.
        """
        ranked = sorted(self._sizes, key=share, reverse=True)
        over = [submitter for submitter in ranked if share(submitter) * len(ranked) > limit]
        return over, ranked[len(over) :]

    def _give_up(
        self,
        ranked: tuple[list[str], list[str]],
        newest: JobKey | None,
        is_wanted: Callable[[JobKey], bool],
    ) -> JobKey:
        """Remove the first that may go: the others' only if those have nothing but the newest."""
        for submitters in ranked:
            keys = [key for each in submitters for key in self._sizes[each] if key != newest]
            for key in chain(filterfalse(is_wanted, keys), keys):
                self.remove(key)
                return key
        raise AssertionError("there is another than the newest")
