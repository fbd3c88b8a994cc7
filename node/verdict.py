"""What comes of a verification: what each other peer's output says about the accepted one, and who
is off. Pure: outputs are compared here, and nothing is done about it.

Outputs that agree form a camp. A camp with more than half of all that can be compared is right, and
the others are outvoted; without one there is only a disagreement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from node.profile import PRECISION, Profile, unlike
from node.runner.kinds import Difference
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.keys import PeerId
from protocols.limits import MAX_TOLD_CHARS

AGREED: Final = "agreed"
DIFFERS: Final = "differs"
UNVERIFIED: Final = "unverified"

FAULTS: Final = (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
"""What comparing two outputs that nobody vouches for may end in."""

Compare = Callable[[bytes, bytes, float], Difference]
"""A kind's ``compare``."""


@dataclass(frozen=True, slots=True)
class Run:
    """One peer's output for the input. ``declared`` are its tolerances by precision, as it
    advertises them.
    """

    peer: PeerId
    output: bytes
    output_cid: CID
    record_cid: CID
    profile: Profile
    declared: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class PeerVerdict:
    """What one other peer's output says; ``difference`` is in the kind's measure."""

    peer: PeerId
    verdict: str
    difference: float | None = None
    record_cid: CID | None = None
    reason: str = ""

    def told(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "peer": self.peer,
            "verdict": self.verdict,
            "difference": self.difference,
            "record_cid": str(self.record_cid) if self.record_cid else None,
            "reason": self.reason or None,
        }

    def record(self) -> dict[str, Any]:
        """Return it as a record has it, where CIDs are links."""
        return {**self.told(), "record_cid": self.record_cid}


@dataclass(frozen=True, slots=True)
class Verification:
    """The verdict on one accepted result. ``wanted`` is how many other peers were to run the job;
    ``reason`` says why fewer did.
    """

    verdict: str
    tolerance: float
    wanted: int
    peers: tuple[PeerVerdict, ...]
    outvoted: tuple[PeerId, ...] = ()
    """Who is off, where a majority says so; the worker of the accepted result may be among them."""
    disputed: tuple[PeerId, ...] = ()
    """Who disagrees with whom, where there is no majority."""
    reason: str = ""
    is_interrupted: bool = False
    """Whether it was left because this node stops."""
    record_cid: CID | None = None
    """Of ``job.verified``; None if it could not be written."""

    def told(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "verdict": self.verdict,
            "tolerance": self.tolerance,
            "wanted": self.wanted,
            "peers": [each.told() for each in self.peers],
            "outvoted": list(self.outvoted),
            "disputed": list(self.disputed),
            "reason": self.reason or None,
            "record_cid": str(self.record_cid) if self.record_cid else None,
        }


class Ballot:
    """The outputs of one input. Those that agree with one that is held already are not kept."""

    def __init__(self, compare: Compare, defaults: Mapping[str, float], first: Run) -> None:
        """``defaults`` are the kind's ``TOLERANCES``."""
        self._compare = compare
        self._defaults = defaults
        self.first = first
        self.tolerance = self._tolerance_of(first)
        """The least of all that were compared."""
        self._camps: list[tuple[Run, list[PeerId]]] = [(first, [first.peer])]

    def add(self, run: Run) -> PeerVerdict:
        """Return what a run says about the first one's output. May take its time."""
        difference = self._difference(self.first, run)
        reasons = unlike(self.first.profile, run.profile, self.tolerance)
        reason = difference.told
        if difference.is_within:
            verdict = AGREED
            self._camps[0][1].append(run.peer)
        elif reasons:
            verdict = UNVERIFIED
            told = f": {reason}" if reason else ""
            reason = f"it differs, and was computed in another way ({', '.join(reasons)}){told}"
        else:
            verdict = DIFFERS
            self._join_other(run)
        amount = difference.amount
        if amount is not None and not math.isfinite(amount):
            amount = None  # which no record can hold
        return PeerVerdict(run.peer, verdict, amount, run.record_cid, reason[:MAX_TOLD_CHARS])

    def outcome(
        self, wanted: int, peers: tuple[PeerVerdict, ...], reason: str = ""
    ) -> Verification:
        """Return the verdict of all that were added, of which ``peers`` tell."""
        verdicts = [each.verdict for each in peers]
        verdict = AGREED if verdicts.count(AGREED) >= wanted else UNVERIFIED
        if DIFFERS in verdicts:
            verdict = DIFFERS
        verification = Verification(verdict, self.tolerance, wanted, peers, reason=reason)
        if len(self._camps) == 1:
            return verification
        camps = [members for _, members in self._camps]
        voters = [peer for members in camps for peer in members]
        largest = max(camps, key=len)
        if 2 * len(largest) <= len(voters):
            return replace(verification, disputed=tuple(voters))
        outvoted = tuple(peer for peer in voters if peer not in largest)
        return replace(verification, outvoted=outvoted)

    def _join_other(self, run: Run) -> None:
        """Put a run whose output is not the first one's with those that it agrees with."""
        for held, members in self._camps[1:]:
            if self._difference(held, run).is_within:
                members.append(run.peer)
                return
        self._camps.append((run, [run.peer]))

    def _difference(self, held: Run, run: Run) -> Difference:
        """A peer that declares more than others is not believed."""
        self.tolerance = min(self.tolerance, self._tolerance_of(run))
        try:
            return self._compare(held.output, run.output, self.tolerance)
        except RemoteProtocolError as error:
            return Difference(None, False, error.message)
        except FAULTS as error:  # an accepted result must not lose its verdict to what others sent
            return Difference(None, False, f"{type(error).__name__} while comparing")

    def _tolerance_of(self, run: Run) -> float:
        precision = str(self.first.profile.get(PRECISION, ""))
        return run.declared.get(precision, self._defaults.get(precision, 0.0))
