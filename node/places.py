"""How many jobs of one submitter a runner works on at once, whatever they cost.

Most kinds compute one batch after the other: a few jobs keep a runner busy, and more would only
wait inside of it. ``generate`` writes a token of each continuation in one batch, at little more
than the cost of one: there jobs join while others are under way, and waiting outside is a waste.
"""

from __future__ import annotations

from typing import Final

from node.fair_queue import MIN_INSIDE
from protocols.limits import MAX_GENERATE_INSIDE, MAX_GENERATE_SEQUENCES

TOGETHER: Final = frozenset({"generate"})


def jobs_inside(kind: str) -> int:
    """Return how many jobs of a submitter may be inside, beyond its quantum of work."""
    return MAX_GENERATE_INSIDE if kind in TOGETHER else MIN_INSIDE


def joins_at_once(kind: str, own_jobs: int, all_jobs: int) -> bool:
    """Whether a job begins at once beside those that its submitter and all have inside."""
    return kind in TOGETHER and own_jobs < MAX_GENERATE_INSIDE and all_jobs < MAX_GENERATE_SEQUENCES
