"""What one peer holds of one feed's epoch: which bundles, which holes, and whether the feed forks.

Everything here is a pure function of the *set* of bundles held. The order of arrival, repeats and
splits never show: that is what lets two peers compare themselves by ``state_root``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from protocols import dagcbor
from protocols.cid import CID, RAW
from protocols.feed import Header
from protocols.limits import MAX_BUNDLE_RECORDS, MAX_CBOR_CONTAINERS

Range = tuple[int, int]
"""First sequence, and the sequence after the last."""


class Link(NamedTuple):
    """A held bundle: its range, its header's digest, its predecessor's (or nothing) and its
    place.
    """

    first_sequence: int
    next_sequence: int
    digest: bytes
    previous: bytes
    offset: int
    """Where the holder keeps the bundle; no answer here depends on it."""

    @classmethod
    def of(cls, header: Header, digest: bytes, offset: int) -> Link:
        """Return the link of a bundle with that header."""
        previous = b"" if header.previous is None else header.previous.digest
        return cls(header.first_sequence, header.next_sequence, digest, previous, offset)


class Run(NamedTuple):
    """Bundles that follow each other without a hole, each naming the one before; ``tip`` is the
    last.
    """

    first_sequence: int
    next_sequence: int
    tip: bytes


class Dropped(NamedTuple):
    """The start of a feed's epoch that was let go of, held in whole or in part."""

    next_sequence: int
    digest: bytes
    """Of the last header, which commits to everything before it."""
    aggregator: bytes
    """Whose signed word let us: its public key."""


class Chain:
    """The bundles held of one feed's epoch, sorted; adding at the end costs O(1) amortised.

    What was ``dropped`` from its start counts as held where it is a question of what exists (runs,
    holes, the state root), for the last header stands for it and an aggregator has all of it; only
    no link leads there any more.
    """

    __slots__ = ("_links", "_runs", "dropped", "is_forked", "lacking")

    def __init__(self) -> None:
        self._links: list[Link] = []
        self.lacking: dict[bytes, int] = {}
        """By their headers' digests, the held bundles of which bodies are absent that nobody
        redacted, and the first such sequence of each. Whoever may fill them keeps this."""
        self._runs: Runs | None = Runs()
        self.dropped: Dropped | None = None
        self.is_forked = False
        """Whether two held bundles can't both belong to one honest feed; it never becomes false
        again.
        """

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[Link]:
        return iter(self._links)

    def find(self, first_sequence: int, digest: bytes) -> Link | None:
        """Return the held bundle with that start and header digest."""
        index = bisect_left(self._links, (first_sequence,))
        for link in self._links[index:]:
            if link.first_sequence != first_sequence:
                break
            if link.digest == digest:
                return link
        return None

    def add(self, link: Link) -> Link | None:
        """Add a bundle not yet held; return a held one that it conflicts with, the proof of a
        fork.
        """
        index = bisect_right(self._links, link)
        rival = self._rival(index, link)
        self.is_forked = self.is_forked or rival is not None
        self._links.insert(index, link)
        if index == len(self._links) - 1 and self._runs is not None:
            self._runs.add(link)
        else:
            self._runs = None
        return rival

    def remove(self, link: Link) -> None:
        """Hold a held bundle no longer; a fork that it proved stays proven."""
        del self._links[self._links.index(link)]
        self.lacking.pop(link.digest, None)
        self._runs = None

    def move(self, link: Link) -> None:
        """Let the holder keep a held bundle at the offset of ``link`` from now on."""
        old = self.find(link.first_sequence, link.digest)
        assert old is not None
        self._links[self._links.index(old)] = link

    def droppable(self, acknowledged: int) -> list[Link]:
        """Return the bundles that may be dropped once everything below ``acknowledged`` is kept
        elsewhere, from the start on and but for the last: the feed goes on from it.

        What is missing below that place is kept elsewhere too, so that nothing waits for it. Of a
        fork nothing may go, for it is evidence.
        """
        if self.is_forked:
            return []
        return [link for link in self._links[:-1] if link.next_sequence <= acknowledged]

    def drop(self, dropped: Dropped) -> list[Link]:
        """Let go of every bundle that ends at or before ``dropped``, and return them."""
        if self.dropped is None or self.dropped.next_sequence < dropped.next_sequence:
            self.dropped = dropped
        gone = [link for link in self._links if link.next_sequence <= dropped.next_sequence]
        self._links = [link for link in self._links if link.next_sequence > dropped.next_sequence]
        for link in gone:
            self.lacking.pop(link.digest, None)
        self._runs = None
        return gone

    @property
    def dropped_below(self) -> int:
        """Below which sequence everything was dropped."""
        return self.dropped.next_sequence if self.dropped is not None else 0

    def offered(self) -> list[Run]:
        """Return the unbroken runs without what was dropped of them."""
        start = self.dropped_below
        left = (run for run in self.runs() if run.next_sequence > start)
        return [run._replace(first_sequence=max(start, run.first_sequence)) for run in left]

    def runs(self) -> Sequence[Run]:
        """Return the unbroken runs, in order of their first bundle."""
        if self._runs is None:
            gone = self.dropped
            self._runs = Runs([Run(0, gone.next_sequence, gone.digest)] if gone else ())
            for link in self._links:
                self._runs.add(link)
        return self._runs.runs

    @property
    def next_sequence(self) -> int:
        """The sequence after the highest one held."""
        return max((run.next_sequence for run in self.runs()), default=0)

    @property
    def whole_up_to(self) -> int:
        """The first sequence that is missing, or of which the body is."""
        return self.whole_from(0)

    def whole_from(self, start: int) -> int:
        """Return the first sequence from ``start`` on that is missing, or of which the body is."""
        end = start
        for run in self.runs():
            if run.first_sequence > end:
                break
            end = max(end, run.next_sequence)
        return min((lacks for lacks in self.lacking.values() if start <= lacks < end), default=end)

    def ranges(self) -> list[Range]:
        """Return which sequences are held, merged and in order."""
        return merge((first, end) for first, end, _ in self.runs())

    def whole_ranges(self) -> list[Range]:
        """Return which sequences are held, but for bundles that are to be filled; merged, in
        order.
        """
        if not self.lacking:
            return self.ranges()
        whole = [
            (link.first_sequence, link.next_sequence)
            for link in self._links
            if link.digest not in self.lacking
        ]
        return merge([(0, self.dropped_below), *whole] if self.dropped else whole)

    def holes(self) -> list[Range]:
        """Return which sequences below the highest one held are missing."""
        ends = [0, *(end for _, end in self.ranges())]
        starts = [first for first, _ in self.ranges()]
        return [(end, first) for end, first in zip(ends, starts, strict=False) if end < first]

    def outside(self, ranges: Iterable[Range]) -> list[Link]:
        """Return the bundles that no range of ``ranges`` covers whole, in order."""
        covered = merge(ranges)
        return [link for link in self._links if not covers(covered, *link[:2])]

    def over(self, sequence: int) -> list[Link]:
        """Return the bundles whose range covers a sequence number; several in a fork."""
        end = bisect_left(self._links, (sequence + 1,))
        # Ranges of a chain that does not fork are disjoint; a fork's may reach over many others.
        first = (sequence - MAX_BUNDLE_RECORDS + 1,)
        start = bisect_left(self._links, first) if self.is_forked else max(0, end - 1)
        return [link for link in self._links[start:end] if link.next_sequence > sequence]

    def covers(self, run: Run) -> bool:
        """Say whether every bundle of somebody else's ``run`` is held, the same ones and not a
        fork's.
        """
        if self.is_forked:
            return self._reaches(run)
        index = bisect_left(self._links, (run.next_sequence,)) - 1
        if index < 0 or self._links[index].digest != run.tip:
            return False
        runs = self.runs()
        at = bisect_right(runs, run.first_sequence, key=lambda ours: ours.first_sequence) - 1
        return at >= 0 and run.next_sequence <= runs[at].next_sequence

    def _reaches(self, run: Run) -> bool:
        """Walk back from the tip: in a fork, equal ranges may hold different bundles."""
        by_digest = {link.digest: link for link in self._links}
        link = by_digest.get(run.tip)
        while link is not None and link.first_sequence > run.first_sequence:
            before = by_digest.get(link.previous)
            if before is not None and before.next_sequence != link.first_sequence:
                return False
            link = before
        return link is not None

    def _rival(self, index: int, link: Link) -> Link | None:
        # Links that don't conflict are disjoint, so only the neighbours can touch a new one.
        if index > 0:
            before = self._links[index - 1]
            if _conflict(before, link):
                return before
        if index < len(self._links) and _conflict(link, self._links[index]):
            return self._links[index]
        return None


def merge(ranges: Iterable[Range]) -> list[Range]:
    """Return ``ranges`` sorted, with those that touch or overlap made one."""
    merged: list[Range] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged


def beyond(known: Iterable[Range], ranges: Iterable[Range]) -> list[Range]:
    """Return what of ``ranges`` lies in none of the ``known`` ones."""
    left: list[Range] = []
    covered = merge(known)
    ends = [end for _, end in covered]
    for first, end in ranges:
        for at in range(bisect_right(ends, first), len(covered)):
            known_first, known_end = covered[at]
            if known_first >= end:
                break
            if first < known_first:
                left.append((first, known_first))
            first = known_end
        if first < end:
            left.append((first, end))
    return left


def covers(merged: Sequence[Range], first: int, end: int) -> bool:
    """Say whether one of the ``merged`` ranges has all of another one."""
    at = bisect_right(merged, first, key=lambda one: one[0]) - 1
    return at >= 0 and end <= merged[at][1]


def state_root(chains: Mapping[tuple[bytes, int], Chain]) -> CID:
    """Return one value that two peers share exactly when they hold the same bundles.

    Over every feed and epoch in order: its runs (each tip commits to what is before it), its holes,
    and whether it forks. One of which all was damaged counts as one of which nothing ever came.
    """
    digest = sha256()
    for (feed, epoch), chain in sorted(chains.items(), key=lambda item: item[0]):
        if not chain.runs() and not chain.is_forked:
            continue
        digest.update(dagcbor.encode([feed, epoch, chain.is_forked]))
        for part in (sorted(chain.runs()), chain.holes()):
            for start in range(0, len(part), _PART):
                digest.update(dagcbor.encode([list(row) for row in part[start : start + _PART]]))
    return CID.of_digest(digest.digest(), RAW)


_PART = 1_024  # rows an encoding, a list each; another number gives other roots
assert _PART < MAX_CBOR_CONTAINERS


def _conflict(first: Link, second: Link) -> bool:
    if first.next_sequence > second.first_sequence:
        return True
    return first.next_sequence == second.first_sequence and second.previous != first.digest


class Runs:
    """Runs that grow bundle by bundle, each in the same time however many there are."""

    __slots__ = ("_ends", "runs")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self.runs = list(runs)
        self._ends = {(run.tip, run.next_sequence): at for at, run in enumerate(self.runs)}

    def extend(self, link: Link) -> bool:
        """Let ``link`` continue the run whose tip it names; say whether there is one."""
        at = self._ends.pop((link.previous, link.first_sequence), None)
        if at is not None:
            first = self.runs[at].first_sequence
            self.runs[at] = Run(first, link.next_sequence, link.digest)
            self._ends[link.digest, link.next_sequence] = at
        return at is not None

    def add(self, link: Link) -> None:
        """Let ``link`` continue the run whose tip it names, or start one of its own."""
        if not self.extend(link):
            self._ends[link.digest, link.next_sequence] = len(self.runs)
            self.runs.append(Run(link.first_sequence, link.next_sequence, link.digest))
