"""What a submission of a job goes on from: what became of it when it was submitted before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocols.keys import PeerId


@dataclass(frozen=True, slots=True)
class Earlier:
    """The attempts that were lost, as (worker, why), and the last fence that was used."""

    losses: tuple[tuple[PeerId, str], ...] = ()
    fence: int = 0
    attempts: int = 0
    """All that began, those included that ended with this node: no worker is to blame for these."""


NOTHING_BEFORE: Final = Earlier()
