"""The fences of one job that its workers say they have seen: a submitter that lost its count in a
crash goes on above them.
"""

from __future__ import annotations

from protocols.job import STALE_FENCE, Refuse
from protocols.limits import MAX_FENCE, MAX_FENCE_JUMPS


class SeenFences:
    """Begins with none."""

    def __init__(self) -> None:
        self._latest = 0
        self._jumps = 0

    def add(self, refuse: Refuse) -> None:
        """A worker refuses, perhaps because it has seen a later fence."""
        is_told = refuse.code == STALE_FENCE
        if is_told and refuse.seen_fence < MAX_FENCE // 2:  # nobody gets that far
            self._latest = max(self._latest, refuse.seen_fence)

    def next_after(self, fence: int) -> int:
        """Return the first fence that is later than ``fence`` and than all that were seen."""
        return max(fence, self._latest) + 1

    def may_void(self, fence: int) -> bool:
        """Whether a round under ``fence`` was in vain because later ones were seen; so often only
        as workers may say so, which this counts.
        """
        if self._latest < fence or self._jumps >= MAX_FENCE_JUMPS:
            return False
        self._jumps += 1
        return True
