"""Lets go of damaged bytes of the journal behind which nothing is missing any more.

Until then they are known as damage, although nobody can read them: the index remembers what lay
there, and what of it is still to be fetched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from peer.index import Index
from peer.journal import Journal
from protocols.journal import Damage

log = logging.getLogger(__name__)


def is_healed(damage: Damage, lost: Iterable[Any], settled_at: int) -> bool:
    """Say whether nothing that lay in damaged bytes is missed: none of it is ``lost``, nor can a
    signature of ours have been in it that is later than what the journal has at ``settled_at``,
    without which we would sign the same range once more.
    """
    return not any(lost) and damage.end_offset <= settled_at


async def heal(journal: Journal, index: Index[Any], damage: Iterable[Damage]) -> list[Damage]:
    """Have what ``is_healed`` be no damage any more, and its room given back; return which that
    are. Whenever it ends before its end, doing it again does the rest.
    """
    healed = [each for each in damage if journal.may_heal(each)]
    if not healed:
        return []
    await index.forget(healed)
    await journal.rewrite({}, healed)
    log.info("damage healed", extra={"places": len(healed)})
    return healed


def size_bytes(damage: Iterable[Damage]) -> int:
    """Return how many bytes are damaged."""
    return sum(each.end_offset - each.offset for each in damage)
