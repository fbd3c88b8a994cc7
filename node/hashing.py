"""Hashing content, away from the loop when it is large: small jobs must not wait for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from protocols.pieces import Outgoing

ASIDE_BYTES: Final = 1 << 20  # a megabyte takes a millisecond to hash: more leaves the loop

T = TypeVar("T")

_hashing = trio.CapacityLimiter(2)


async def cut(salt: bytes, content: bytes) -> Outgoing:
    """Hash content for sending."""
    return await _hash(content, lambda: Outgoing.cut(salt, content))


async def digest_of(content: bytes) -> bytes:
    """Return the sha256 of content."""
    return await _hash(content, lambda: hashlib.sha256(content).digest())


async def _hash(content: bytes, work: Callable[[], T]) -> T:
    if len(content) <= ASIDE_BYTES:
        return work()
    return await trio.to_thread.run_sync(work, limiter=_hashing)
