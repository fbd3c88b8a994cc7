"""Takes bundles and their headers apart when they have the usual form, without decoding them as
DAG-CBOR: they are byte strings in a known order, and most bundles reach an aggregator twice.

What is returned here is what the strict codec would return. None is no verdict: the caller asks the
codec, which says what is wrong or reads what is only unusual.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from protocols.cid import DIGEST_BYTES
from protocols.limits import MAX_BUNDLE_RECORDS
from protocols.record_form import COUNT, LINK, NULL, count_of, link_target

_LIST: Final = 0x80
_LONG_LIST: Final = 0x98
_FEW: Final = 23  # as many as the one-byte head of a list can count
_ONE_BYTE_LENGTH: Final = 0x58
_TWO_BYTE_LENGTH: Final = 0x59
_SIGNATURE_HEAD: Final = b"\x58\x40"
_SIGNATURE_BYTES: Final = 64
_DIGEST_HEAD: Final = b"\x58\x20"
_STEP: Final = len(_DIGEST_HEAD) + DIGEST_BYTES

_HEADER: Final = re.compile(
    rb"\x87([\x01-\x17])\x58\x20(.{32})(%b)(%b)" % (COUNT, COUNT)
    + rb"([\x81-\x97]|\x98[\x18-\x40])((?:\x58\x20.{32}){1,64}+)"
    + rb"(%b|%b)(%b)\Z" % (NULL, LINK, COUNT),
    re.DOTALL,
)


class HeaderParts(NamedTuple):
    """The fields of a header, of which each has its type and only epoch and place are unbounded."""

    version: int
    feed: bytes
    epoch: int
    first_sequence: int
    digests: tuple[bytes, ...]
    previous: bytes | None
    time_us: int


def header_parts(data: bytes) -> HeaderParts | None:
    """Return the fields of a header in the usual form."""
    found = _HEADER.match(data)
    if found is None:
        return None
    version, feed, epoch, first_sequence, head, digests, previous, time_us = found.groups()
    if _counted(head) * _STEP != len(digests):
        return None
    starts = range(len(_DIGEST_HEAD), len(digests), _STEP)
    return HeaderParts(
        version[0],
        feed,
        count_of(epoch),
        count_of(first_sequence),
        tuple([digests[at : at + DIGEST_BYTES] for at in starts]),
        link_target(previous),
        count_of(time_us),
    )


def envelope_parts(data: bytes) -> tuple[bytes, bytes, tuple[bytes, ...]] | None:
    """Return a bundle's header, signature and 1 to 64 records; their sizes are the caller's to
    bound.
    """
    if data[:1] != b"\x83":
        return None
    first = _string(data, 1)
    if first is None or not data.startswith(_SIGNATURE_HEAD, first[1]):
        return None
    header, at = first
    start = at + len(_SIGNATURE_HEAD)
    at = start + _SIGNATURE_BYTES
    width = 2 if data[at : at + 1] == b"\x98" else 1
    head = data[at : at + width]
    if len(head) < width or not 0 < (count := _counted(head)) <= MAX_BUNDLE_RECORDS:
        return None
    records = _strings(data, at + width, count)
    return None if records is None else (header, data[start : start + _SIGNATURE_BYTES], records)


def _strings(data: bytes, at: int, count: int) -> tuple[bytes, ...] | None:
    """Return so many byte strings, which must end ``data``."""
    strings: list[bytes] = []
    for _ in range(count):
        found = _string(data, at)
        if found is None:
            return None
        content, at = found
        strings.append(content)
    return tuple(strings) if at == len(data) else None


def _string(data: bytes, at: int) -> tuple[bytes, int] | None:
    """Return the byte string at ``at`` and where it ends, if it has 24 to 65,535 bytes."""
    head = data[at : at + 3]
    if len(head) < 3:
        return None
    if head[0] == _TWO_BYTE_LENGTH and head[1]:
        start, end = at + 3, at + 3 + (head[1] << 8 | head[2])
    elif head[0] == _ONE_BYTE_LENGTH and head[1] > _FEW:
        start, end = at + 2, at + 2 + head[1]
    else:
        return None
    return (data[start:end], end) if end <= len(data) else None


def _counted(head: bytes) -> int:
    """Return how many items the head of a list counts; none when it is not minimal or no list."""
    if len(head) == 1:
        return head[0] - _LIST if _LIST <= head[0] <= _LIST + _FEW else 0
    return head[1] if head[0] == _LONG_LIST and head[1] > _FEW else 0
