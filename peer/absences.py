"""Which bodies are absent under headers that are held, and which of those somebody may fill.

A body that nobody redacted is wanted until it comes; one that is redacted is missed by nobody. What
is absent is remembered in either case, for tombstones come and go out of count in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from peer.statement_places import HeldBundle
from protocols.chain import Chain
from protocols.cid import CID
from protocols.feed import Header
from protocols.limits import MAX_ABSENT_BODIES, MAX_ABSENT_OF_FEED
from protocols.tombstone import Redactions

FeedEpoch = tuple[bytes, int]


class LackingBody(NamedTuple):
    """A record whose body nobody has sent, though its header is here."""

    cid: CID
    feed: bytes
    epoch: int
    sequence: int


class BodyPlace(NamedTuple):
    """Where a body stood: in a feed, and at which offset of the journal."""

    feed: bytes
    epoch: int
    sequence: int
    offset: int


class Absences:
    """What is absent by bundle, judged by ``redactions``; it keeps ``lacking`` of the chains."""

    def __init__(self, mesh: bytes | None, chains: Mapping[FeedEpoch, Chain]) -> None:
        self.redactions = Redactions(mesh)
        self._chains = chains
        self._absent: dict[HeldBundle, dict[int, CID]] = {}
        self._where: dict[CID, set[HeldBundle]] = {}
        self._lacking: dict[HeldBundle, int] = {}
        self._lacking_of: Counter[bytes] = Counter()
        self.lacking_count = 0
        """How many records ``lacking`` has."""
        self._charged = 0
        """How many of them count towards what is remembered in all."""

    @property
    def lacking(self) -> list[LackingBody]:
        """The records whose bodies are absent here and not redacted, in feed order."""
        return sorted(
            LackingBody(cid, held.feed, held.epoch, sequence)
            for held, absent in self._absent.items()
            for sequence, cid in absent.items()
            if self.redactions.of(cid, held.feed) is None
        )

    def admits(self, header: Header, absent: Mapping[int, CID]) -> bool:
        """Say whether a bundle not yet held may be kept without those bodies: each that nobody
        redacted is remembered until it comes. What is on its way to the disk is not counted yet.
        """
        count = sum(self.redactions.of(cid, header.feed) is None for cid in absent.values())
        return not count or (
            self._lacking_of[header.feed] + count <= MAX_ABSENT_OF_FEED
            and self._charged + count <= MAX_ABSENT_BODIES
        )

    def absent_from(self, header: Header, cid: CID) -> Mapping[int, CID]:
        """Return the records whose bodies are absent from a held bundle, by their sequence."""
        return self._absent.get(HeldBundle(header.feed, header.epoch, cid.digest), {})

    def would_fill(self, header: Header, cid: CID, absent: Mapping[int, CID]) -> bool:
        """Say whether a held bundle that comes again brings bodies that are to be filled: half of
        them or more, for each time the journal takes the whole bundle anew. So it does seven times
        at most.
        """
        wanted = [
            sequence
            for sequence, record in self.absent_from(header, cid).items()
            if self.redactions.of(record, header.feed) is None
        ]
        brought = sum(sequence not in absent for sequence in wanted)
        return bool(brought) and 2 * brought >= len(wanted)

    def lose(self, held: HeldBundle, bodies: Mapping[int, CID]) -> None:
        """Take in that these bodies of a held bundle were erased, by their sequence."""
        self._note_absent(held, {**self._absent.get(held, {}), **bodies})

    def _note_absent(self, held: HeldBundle, absent: dict[int, CID]) -> None:
        self._absent[held] = absent
        for cid in absent.values():
            self._where.setdefault(cid, set()).add(held)
        self._judge(held)

    def _judge_those_with(self, cids: Iterable[CID]) -> None:
        """Judge each bundle once, however many of these records are absent from it."""
        for held in {held for cid in cids for held in self._where.get(cid, ())}:
            self._judge(held)

    def _judge(self, held: HeldBundle) -> None:
        """Say in its chain whether a bundle is to be filled."""
        lacking = self._chains[held.feed, held.epoch].lacking
        wanted = [
            sequence
            for sequence, cid in self._absent[held].items()
            if self.redactions.of(cid, held.feed) is None
        ]
        redacted = set(self._absent[held].values()).difference(
            self._absent[held][sequence] for sequence in wanted
        )
        if redacted:
            self.redactions.found(held.feed, redacted)
        lacking.pop(held.header, None)
        if wanted:
            lacking[held.header] = min(wanted)
        self._count_lacking(held, len(wanted))

    def _count_lacking(self, held: HeldBundle, count: int) -> None:
        change = count - self._lacking.pop(held, 0)
        if count:
            self._lacking[held] = count
        # An author's tombstones that count no longer may leave any number of its bodies wanted:
        # past what one feed may lack they take nobody else's room
        self._charged -= min(self._lacking_of[held.feed], MAX_ABSENT_OF_FEED)
        self._lacking_of[held.feed] += change
        self._charged += min(self._lacking_of[held.feed], MAX_ABSENT_OF_FEED)
        self.lacking_count += change

    def _forget_absent(self, held: HeldBundle) -> None:
        self._count_lacking(held, 0)
        for cid in self._absent.pop(held, {}).values():
            self._where[cid].discard(held)
            if not self._where[cid]:
                del self._where[cid]
