"""The fences of one job that its workers say they have seen: a submitter that lost its count in a
crash goes on above them.
"""

from __future__ import annotations

from protocols.errors import RemoteProtocolError
from protocols.job import STALE_FENCE, Refuse
from protocols.limits import MAX_FENCE_JUMPS, MAX_FENCE_RISE, MAX_FENCE_TOLD


class SeenFences:
    """Begins with none."""

    def __init__(self) -> None:
        self._latest = 0
        self._jumps = 0

    def add(self, refuse: Refuse, fence: int) -> None:
        """A worker refuses an offer under ``fence``, perhaps because it has seen a later one.

        That counts up to ``MAX_FENCE_RISE`` above: where an honest worker has seen more than that,
        because another one lied, several rounds reach it. Raises ``RemoteProtocolError`` for one
        that no round ever had.
        """
        if refuse.code != STALE_FENCE:
            return
        if refuse.seen_fence > fence + MAX_FENCE_TOLD:
            raise RemoteProtocolError(
                f"it says that it has seen fence {refuse.seen_fence} of a job that is at {fence}",
                code="wrong-fence",
                seen_fence=refuse.seen_fence,
                limit=fence + MAX_FENCE_TOLD,
            )
        self._latest = max(self._latest, min(refuse.seen_fence, fence + MAX_FENCE_RISE))

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
