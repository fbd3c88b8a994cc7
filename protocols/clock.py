"""Two clocks that disagree: whose is wrong, as far as the evidence goes.

Nothing is ordered by the clock, but certificates begin and end by it, so a machine that lives in
another day is told so at hello instead of failing later in ways that nobody understands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocols.errors import RemoteProtocolError
from protocols.keys import PeerId
from protocols.limits import CLOCK_TOLERANCE_S, MAX_CLOCK_APART_S

MAX_APART_US: Final = MAX_CLOCK_APART_S * 1_000_000
TOLERANCE_US: Final = CLOCK_TOLERANCE_S * 1_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """What one peer's clock says."""

    peer: PeerId
    time_us: int


def check_clocks(
    ours: Reading, theirs: Reading, others_us: Iterable[int], issued_us: Iterable[int]
) -> None:
    """Raise ``RemoteProtocolError`` with code ``clock`` if two clocks are more than
    ``MAX_CLOCK_APART_S`` apart.

    ``others_us`` is what the clocks of other peers say now, and ``issued_us`` when certificates
    were issued, which can't be in the future: both are evidence of whose clock is wrong.
    """
    apart_us = theirs.time_us - ours.time_us
    if abs(apart_us) <= MAX_APART_US:
        return
    wrong = _wrong(ours, theirs, list(others_us), list(issued_us))
    if wrong is None:
        verdict, hint = "one of them is wrong", "set the clock of whichever machine is wrong"
    else:
        verdict, hint = f"that of {wrong} seems wrong", f"set the clock of the machine of {wrong}"
    raise RemoteProtocolError(
        f"the clock of {theirs.peer} is {_span(apart_us)} that of {ours.peer}; {verdict}",
        code="clock",
        hint=f"{hint}, for example with NTP",
        wrong=wrong,
    )


def _wrong(
    ours: Reading, theirs: Reading, others_us: list[int], issued_us: list[int]
) -> PeerId | None:
    """The peer whose clock is wrong: the others outvote it, or it lives before its mesh was
    made.
    """
    with_us, with_them = (
        sum(abs(other - side.time_us) <= MAX_APART_US for other in others_us)
        for side in (ours, theirs)
    )
    if with_us != with_them:
        return theirs.peer if with_us > with_them else ours.peer
    early, late = sorted((ours, theirs), key=lambda side: side.time_us)
    latest = max(issued_us, default=0) - TOLERANCE_US
    return early.peer if early.time_us < latest <= late.time_us else None


def _span(apart_us: int) -> str:
    hours = abs(apart_us) // 3_600_000_000
    days = f"{hours // 24} days and {hours % 24} hours" if hours >= 24 else f"{hours} hours"
    return f"{days} {'ahead of' if apart_us > 0 else 'behind'}"
