"""What a message about a job is checked for when it is made.

Nearly all are well-formed, and each is checked at both ends: nothing is formatted before something
is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from typing import Final

from protocols.cid import DIGEST_BYTES
from protocols.limits import (
    BULK_CHUNK_BYTES,
    MAX_CODE_CHARS,
    MAX_FACT_CHARS,
    MAX_FACTS,
    MAX_JOB_OUTPUT_BYTES,
    MAX_REASON_CHARS,
)

CODE: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_BODY_TOO_LONG: Final = f"body is over {BULK_CHUNK_BYTES} bytes"


def check(is_right: bool, what: str) -> None:
    """Raise ``ValueError``, which msgspec turns into a validation error while decoding."""
    if not is_right:
        raise ValueError(what)


def check_facts(facts: Mapping[str, str | int | float | bool], name: str) -> None:
    """Raise ``ValueError`` unless a free-form map, the ``name``, is small and flat."""
    if len(facts) > MAX_FACTS:
        raise ValueError(f"{name} has more than {MAX_FACTS} entries")
    for key, value in facts.items():
        if len(key) > MAX_CODE_CHARS:
            raise ValueError(f"{name} has a key that is too long")
        if isinstance(value, str):
            if len(value) > MAX_FACT_CHARS:
                raise ValueError(f"{name} has a value that is too long")
        # others are to compute with it, and JSON has no such number
        elif isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{name} has a value that is not finite")


@lru_cache(256)
def is_kind(kind: str) -> bool:
    """Whether this can name a kind; it may be long."""
    return bool(CODE.fullmatch(kind.replace(".", "-")))


def check_code(code: str, reason: str) -> None:
    """Raise ``ValueError`` unless these can be a code and its reason."""
    check(len(code) <= MAX_CODE_CHARS and bool(CODE.fullmatch(code)), "code is malformed")
    check(len(reason) <= MAX_REASON_CHARS, "reason is too long")


def check_piece(index: int, body: bytes, digest: bytes) -> None:
    """Raise ``ValueError`` unless these can be a piece of content."""
    check(0 <= index <= MAX_JOB_OUTPUT_BYTES, "index is out of range")
    check(len(body) <= BULK_CHUNK_BYTES, _BODY_TOO_LONG)
    check(len(digest) == DIGEST_BYTES, "digest is not 32 bytes")


def check_held(pieces: int, digest: bytes) -> None:
    """Raise ``ValueError`` unless these can say how much of some content is held."""
    check(0 <= pieces <= MAX_JOB_OUTPUT_BYTES, "held_pieces is out of range")
    check(len(digest) == (DIGEST_BYTES if pieces else 0), "held_digest does not fit held_pieces")
