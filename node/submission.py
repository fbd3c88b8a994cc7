"""The record of a job's submission, and whether what comes later may name it."""

from __future__ import annotations

from dataclasses import dataclass

from node.ledger import Stopwatch
from peer.journal import JournalError
from protocols.cid import CID


@dataclass(frozen=True, slots=True)
class Submission:
    """The record of a job's submission: written soon, unless the disk turns out to refuse it."""

    cid: CID
    watch: Stopwatch
    refusals: list[JournalError]

    def check(self) -> None:
        """Raise ``JournalError`` if the record will never be there; nothing may name it then."""
        if self.refusals:
            raise self.refusals[0]

    @property
    def link(self) -> CID | None:
        """What a later record may name."""
        return None if self.refusals else self.cid
