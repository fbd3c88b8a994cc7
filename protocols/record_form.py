"""Recognises, by one pattern, the form that nearly all records have: small, flat, in ASCII.

A record that fits is strict DAG-CBOR and a valid record, so an aggregator need not build anything
of it, and reads what its index keeps from where the pattern found it. A record that does not fit is
not wrong: whoever asks decodes it then. The pattern takes a part of what ``Record.decode`` takes
and never more, which tests compare over whatever they can think of.

Every alternative starts with another byte and nothing in it can match in two ways, so that hostile
bytes cost no more than honest ones.
"""

from __future__ import annotations

import re
from functools import cache
from operator import lt
from typing import Final, NamedTuple

from protocols.limits import MAX_NONCE_BYTES

MOST_BYTES: Final = 2 << 10
"""Whatever is larger is not looked at: so few bytes reach no limit of items, lists or links."""

_SHORT: Final = range(24)  # lengths and numbers that are part of the head
_LONGER: Final = range(24, 65)  # lengths whose byte follows the head; a peer's id has 52
_BYTES, _TEXT, _LIST = 0x40, 0x60, 0x80
_MOST_LINKS: Final = 8

NULL: Final = rb"\xf6"
_CID: Final = rb"\x01[\x55\x71]\x12\x20.{32}"
_LINK_HEAD: Final = rb"\xd8\x2a\x58\x25\x00"
LINK: Final = _LINK_HEAD + _CID
COUNT: Final = (  # minimal, and below 2^63
    rb"(?:[\x00-\x17]|\x18[\x18-\xff]|\x19[\x01-\xff].|\x1a(?!\0\0).{4}"
    rb"|\x1b(?!\0{4})[\x00-\x7f].{7})"
)
_SCALAR: Final = (  # numbers of either sign, minimal; false, true and null
    rb"[\x00-\x17\x20-\x37\xf4-\xf6]|[\x18\x38][\x18-\xff]|[\x19\x39][\x01-\xff]."
    rb"|[\x1a\x3a](?!\0\0).{4}|[\x1b\x3b](?!\0{4}).{8}"
)
_FLOAT: Final = rb"\xfb(?![\x7f\xff][\xf0-\xff])(?!\x80\0{7}).{8}"  # finite, and not -0.0


def _strings(major: int, content: bytes, lengths: range) -> bytes:
    """Return the alternatives of a string whose length is part of its head."""
    return b"|".join(
        re.escape(bytes((major + length,))) + content + b"{%d}" % length for length in lengths
    )


def _long_strings(major: int, content: bytes) -> bytes:
    rest = (re.escape(bytes((length,))) + content + b"{%d}" % length for length in _LONGER)
    return re.escape(bytes((major + len(_SHORT),))) + b"(?:" + b"|".join(rest) + b")"


def _list_of(item: bytes) -> bytes:
    counts = range(1, _MOST_LINKS + 1)
    lists = (b"%b(?:%b){%d}" % (re.escape(bytes((_LIST + n,))), item, n) for n in counts)
    return b"(?:" + b"|".join((re.escape(bytes((_LIST,))), *lists)) + b")"


_ASCII: Final = rb"[\x00-\x7f]"
_WORD: Final = b"(?:" + _strings(_TEXT, _ASCII, _SHORT[1:]) + b")"
_NONCE: Final = b"(?:" + _strings(_BYTES, b".", _SHORT[: MAX_NONCE_BYTES + 1]) + b")"
_ROLE_LINK: Final = rb"\x82" + LINK + _WORD
_VALUE: Final = b"(?:%b)" % b"|".join(
    (
        _SCALAR,
        _strings(_TEXT, _ASCII, _SHORT),
        _long_strings(_TEXT, _ASCII),
        _FLOAT,
        _strings(_BYTES, b".", _SHORT),
        _long_strings(_BYTES, b"."),
        LINK,
    )
)
_FIELDS: Final = (
    rb"\x8d[\x01-\x17]\x58\x20.{32}",  # thirteen fields: the version, the author
    _NONCE,
    b"(?P<kind>%b)" % _WORD,
    b"(?P<used>%b)" % _list_of(_ROLE_LINK),
    b"(?P<generated>%b)" % _list_of(_ROLE_LINK),
    b"(?P<informed_by>%b)" % _list_of(LINK),
    b"(?P<environment>%b|%b)" % (NULL, LINK),
    b"(?P<hardware>%b|%b)" % (NULL, LINK),
    b"(?P<start_us>%b)(?P<duration_us>%b)" % (COUNT, COUNT),
    b"(?P<status>%b)" % _WORD,
)
_ATTRIBUTES: Final = rb"(?P<attributes>[\xa0-\xb7](?:%b%b){0,23}+)\Z" % (_WORD, _VALUE)

_MAP: Final = 0xA0
_AUTHOR: Final = slice(4, 36)


_CID_AT: Final = 5  # in an encoded link; an encoded null is shorter


def count_of(encoded: bytes) -> int:
    """Return the number that matched ``COUNT``."""
    return int.from_bytes(encoded[1:], "big") if len(encoded) > 1 else encoded[0]


def link_target(encoded: bytes) -> bytes | None:
    """Return the CID of what matched ``LINK`` or ``NULL``."""
    return encoded[_CID_AT:] or None


class _Patterns(NamedTuple):
    record: re.Pattern[bytes]
    trusted: re.Pattern[bytes]
    """For records known to be valid: what follows the other fields must be the attributes."""
    keys: re.Pattern[bytes]
    """The key of each pair of a map; in what ``record`` has matched they follow each other."""
    role_links: re.Pattern[bytes]
    links: re.Pattern[bytes]


@cache
def _patterns() -> _Patterns:
    """Compiled when there is a record to look at, for that takes ten milliseconds."""
    fields = b"".join(_FIELDS)
    return _Patterns(
        re.compile(fields + _ATTRIBUTES, re.DOTALL),
        re.compile(fields, re.DOTALL),
        re.compile(b"(%b)%b" % (_WORD, _VALUE), re.DOTALL),
        re.compile(rb"\x82%b(%b)(%b)" % (_LINK_HEAD, _CID, _WORD), re.DOTALL),
        re.compile(b"%b(%b)" % (_LINK_HEAD, _CID), re.DOTALL),
    )


def author_if_usual(data: bytes) -> bytes | None:
    """Return the author of a record in the usual form, which is then valid; none if it has another
    form or is invalid.
    """
    patterns = _patterns()
    found = patterns.record.match(data) if len(data) <= MOST_BYTES else None
    if found is None:
        return None
    start = found.start("attributes")
    keys = patterns.keys.findall(data, start + 1)
    if len(keys) != data[start] - _MAP or not all(map(lt, keys, keys[1:])):
        return None  # encoded keys sort as the map must: their heads are their lengths
    return data[_AUTHOR]


class Parts(NamedTuple):
    """The encoded fields of a valid record from its kind on."""

    kind: bytes
    used: bytes
    generated: bytes
    informed_by: bytes
    environment: bytes
    hardware: bytes
    start_us: bytes
    duration_us: bytes
    status: bytes
    attributes: bytes


def parts_of_valid(data: bytes) -> Parts | None:
    """Return the parts of a valid record, unless its fields in front of the attributes are
    unusual.
    """
    found = _patterns().trusted.match(data)
    return None if found is None else Parts._make((*found.groups(), data[found.end() :]))


def role_links(part: bytes) -> list[tuple[bytes, bytes]]:
    """Return the CIDs and encoded roles of an encoded list of links with roles."""
    return _patterns().role_links.findall(part)


def links(part: bytes) -> list[bytes]:
    """Return the CIDs of an encoded list of links."""
    return _patterns().links.findall(part)
