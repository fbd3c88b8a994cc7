"""How far a walk goes; apart from the walk, which needs numpy, so that a question can be read
without it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reach:
    """Where to walk, how far, and what counts."""

    leads_up: bool
    depth: int
    """Links from the start; the walk says whether there would have been more."""
    only_outputs: bool = False
    is_all: bool = False
    """Whether nothing beyond the depth is asked for."""
