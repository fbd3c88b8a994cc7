"""What a daemon that is gone left on its disk, read from a copy: opening a journal repairs it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from peer.check import Walked, walk
from peer.identity import Identity
from peer.journal import Journal
from protocols.cid import CID
from protocols.feed import Bundle
from protocols.journal import Entry, RecordBody
from tests.support.machines import Machine


@dataclass(frozen=True)
class Left:
    """The records in a journal by CID, and what a walk over all of its entries found."""

    boot: int
    records: frozenset[str]
    walked: Walked

    @property
    def acknowledged(self) -> int:
        """How many records of its own feed some aggregator has promised to keep."""
        furthest: dict[int, int] = {}
        for entry in self.walked.acked:
            if entry.feed == self.walked.own:
                furthest[entry.epoch] = max(furthest.get(entry.epoch, 0), entry.next_sequence)
        return sum(furthest.values())

    def check_sound(self) -> None:
        """Every signature holds, every bundle has the records that its header names, and no key
        signed two truths.
        """
        assert not self.walked.faults, f"entries that do not hold: {self.walked.faults}"
        forked = [key for key, chain in self.walked.chains.items() if chain.is_forked]
        assert not forked, f"forked: {forked}"

    def held_up_to(self, feed: bytes, epoch: int) -> int:
        """Below which sequence of a feed everything is held."""
        chain = self.walked.chains.get((feed, epoch))
        return chain.whole_up_to if chain else 0


@contextmanager
def copied_journal(home: Path) -> Iterator[Journal]:
    """A copy of the journal in ``home``, opened as the next start will open it."""
    with tempfile.TemporaryDirectory(prefix="covey-left-") as scratch:
        copy, there = Path(scratch) / "journal", home / "journal"
        if there.is_dir():
            shutil.copytree(there, copy)
        else:
            shutil.copyfile(there, copy)
        with closing(Journal.open(copy)) as journal:
            yield journal


def left_by(machine: Machine) -> Left:
    """Read what ``machine``, whose daemon is gone, has on its disk."""
    identity = Identity.load(machine.home)
    with copied_journal(machine.home) as journal:
        walked = walk(journal.inspect(journal.size), identity.key.public)
        records = frozenset(str(CID.of(each)) for each in _records(journal))
    return Left(identity.boot, records, walked)


def _records(journal: Journal) -> Iterator[bytes]:
    for _, _, kind, body in journal.scan():
        if kind is Entry.RECORD:
            yield RecordBody.decode(body).record
        elif kind is Entry.BUNDLE:
            yield from Bundle.decode_verified(body).records
