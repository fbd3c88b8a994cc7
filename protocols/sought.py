"""What a bundle answers of a question for records or for the makers of things. Pure."""

from __future__ import annotations

from collections.abc import Set

from protocols.cid import CID
from protocols.feed import Bundle
from protocols.outline import outline_verified
from protocols.record import GENERATED


def made_in(bundle: Bundle) -> set[bytes]:
    """Return the digests of everything that the bundle's records made."""
    outlines = (outline_verified(record) for record in bundle.records)
    return {
        CID(target).digest
        for each in outlines
        for direction, _role, target in each.links
        if direction == GENERATED
    }


def answers(bundle: Bundle, sought: Set[bytes]) -> bool:
    """Say whether a bundle holds a record of these digests, or the maker of such a thing."""
    return not (sought.isdisjoint(bundle.header.digests) and sought.isdisjoint(made_in(bundle)))
