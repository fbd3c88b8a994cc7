"""Whether anybody could take a job now, by the adverts: for who asks for what nobody offers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from node.needs import JobNeeds, why_not, why_without
from peer.directory import Directory
from protocols.keys import PeerId
from protocols.limits import MAX_CONSIDERED


def why_nobody(directory: Directory, needs: JobNeeds) -> str | None:
    """Say in one line why no worker fits a job now; None if one does, or in a mesh too large to
    look through.
    """
    reasons: dict[PeerId, str] = {}
    for peer, reason in islice(_reasons(directory, needs), MAX_CONSIDERED):
        if reason is None:
            return None
        reasons[peer] = reason
    if needs.peer is not None:
        return f"{needs.peer} {reasons.get(needs.peer, 'is not known here as a worker')}"
    if len(reasons) == MAX_CONSIDERED:
        return None
    return _told(reasons, needs)


def _reasons(directory: Directory, needs: JobNeeds) -> Iterator[tuple[PeerId, str | None]]:
    """Yield every worker that may be asked, with why it will not do if that is so."""
    for entry in directory if needs.peer is None else filter(None, [directory.get(needs.peer)]):
        worker = directory.worker(entry.peer_id)
        if worker is not None and worker.advert is not None:
            yield entry.peer_id, why_not(worker.advert, needs)


def _told(reasons: dict[PeerId, str], needs: JobNeeds) -> str:
    if not reasons:
        return "no worker is known"
    without = why_without(needs.model)
    nearest = next(((peer, why) for peer, why in reasons.items() if why != without), None)
    if nearest is None:
        return f"no worker offers the model {needs.model}"
    others = sum(why != without for why in reasons.values()) - 1
    peer, why = nearest
    return f"{peer} {why}" + (f", and {others} more will not do either" if others else "")
