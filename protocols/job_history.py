"""What happened to a job at its submitter, step by step: what `covey job why` and `logs` tell from.

Steps are tuples of what was at hand, for every job takes seven; whoever reads them makes sentences.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from protocols.limits import MAX_HISTORY_STEPS

OFFERED: Final = "offered"
LEASED: Final = "leased"
REFUSED: Final = "refused"
ACCEPTED: Final = "accepted"
RUNNING: Final = "running"
LOST: Final = "lost"
FAILED: Final = "failed"
DONE: Final = "done"


class Step(NamedTuple):
    """Something that happened: ``at`` on the clock that the machine was given, with which peer,
    under which fence. ``detail`` is a lease's eta in milliseconds, or a reason.
    """

    at: float
    what: str
    peer: str
    fence: int
    detail: int | str = ""


OF_OFFERS: Final = frozenset({OFFERED, LEASED, REFUSED})
"""What may happen any number of times; all else is of one of a few attempts."""


class JobHistory:
    """The steps of one job, in order: the first ``MAX_HISTORY_STEPS``, later ones only if they are
    of an attempt, and how many were left out.
    """

    __slots__ = ("_steps", "dropped")

    def __init__(self) -> None:
        self._steps: list[tuple[float, str, str, int, int | str]] = []
        self.dropped = 0

    def add(self, at: float, what: str, peer: str, fence: int, detail: int | str = "") -> None:
        """Remember one step."""
        if len(self._steps) < MAX_HISTORY_STEPS or what not in OF_OFFERS:
            self._steps.append((at, what, peer, fence, detail))
        else:
            self.dropped += 1

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> list[Step]:
        """The steps so far."""
        return [Step(*step) for step in self._steps]
