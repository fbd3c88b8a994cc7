"""The steps in a kept job's life that are nobody's attempt at it, as its log has them."""

from __future__ import annotations

from typing import Any, Final

from node.explanation import moment

SUBMITTED: Final = "submitted"
WAITS: Final = "waits"
RESUMED: Final = "resumed after a restart"
AGAIN: Final = "tried again"
ENDED: Final = "ended"


def life_step(at_us: int, what: str, detail: str = "") -> dict[str, Any]:
    """Return one step; ``detail`` is a reason."""
    step = {"at": moment(at_us), "what": what}
    return {**step, "detail": detail} if detail else step
