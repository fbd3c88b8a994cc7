"""What a submitter's record says of a result that came to it: which record of which worker made it.

It is the submitter's word alone. The worker's own record would show that it is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from protocols.keys import PeerId, is_peer_id

C = TypeVar("C", bound=bytes)

TAKING_KINDS: Final = ("job.accepted", "job.repeated", "job.late")
"""Records of results; each names what it is about first, and the worker's run last."""


def worker_of(kind: str, attributes: Mapping[str, Any]) -> PeerId | None:
    """Return who made what a record of this kind took; none if it took nothing or names nobody."""
    worker = attributes.get("worker") if kind in TAKING_KINDS else None
    return PeerId(worker) if isinstance(worker, str) and is_peer_id(worker) else None


def run_of(informed_by: Sequence[C]) -> C | None:
    """Return the run that a taking record says it took."""
    return informed_by[-1] if informed_by else None
