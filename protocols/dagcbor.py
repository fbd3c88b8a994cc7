"""Strict DAG-CBOR: one value has exactly one encoding, so equal content has an equal CID
everywhere.

The rule of acceptance is that re-encoding gives the input back. It covers definite lengths, minimal
heads, 64-bit floats and trailing bytes at C speed; what the encoder would reproduce although it is
forbidden (key order, tags other than 42, NaN, infinities, -0.0) is checked on the decoded value.

Size, depth and the number of items are bounded before anything is built, in both directions:
cbor2's encoder overflows the C stack on deep values, and its decoder spends 73 bytes of memory a
byte of input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, cast

import cbor2

from protocols.cid import CID, CID_BYTES, PREFIXES, AnyCID, is_well_formed
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import (
    MAX_CBOR_CONTAINERS,
    MAX_CBOR_DEPTH,
    MAX_CBOR_ITEMS,
    MAX_RECORD_BYTES,
)

_LINK_TAG: Final = 42
_INT_MIN: Final = -(1 << 64)
_INT_MAX: Final = (1 << 64) - 1
_LEAVES: Final = frozenset((int, str, bytes, bool, type(None)))
_PLAIN: Final = _LEAVES - {int}  # whatever their value, cbor2 encodes them as they must be

# Below this size the worst input costs cbor2 less than 2 ms, and the scan would cost more than it
# saves.
_SCAN_FROM_BYTES: Final = 4 << 10

_FLAT_ITEMS: Final = 32  # no record of ours has more attributes

_TEXT: Final = frozenset((str,))
_CONTAINERS: Final = frozenset((list, dict))
_STRICT_LINKS: Final = tuple(b"\0" + prefix for prefix in PREFIXES.values())
_LINK_HEAD: Final = b"\xd8\x2a"
LINK_HEAD: Final = _LINK_HEAD + b"\x58\x25\0"
"""What stands before the 36 bytes of a ``CID``."""
_LONG_STRING_HEADS: Final = frozenset((*range(0x58, 0x5C), *range(0x78, 0x7C)))


def _short_items(count: int) -> re.Pattern[bytes]:
    """Match exactly ``count`` items that end within 24 bytes or are links; containers by their
    head.
    """
    forms = [
        rb"[\x00-\x17\x20-\x37\x40\x60\x80-\x97\xa0-\xb7\xf4-\xf6]",
        rb"[\x18\x38\x98\xb8].",
        rb"[\x19\x39\x99\xb9].{2}",
        rb"[\x1a\x3a\x9a\xba].{4}",
        rb"[\x1b\x3b\x9b\xbb\xfb].{8}",
        rb"\xd8\x2a\x58\x25\x00.{36}",
    ]
    forms += [b"[%c%c].{%d}" % (0x40 + size, 0x60 + size, size) for size in range(1, 24)]
    # Possessive: no form is a prefix of another, so there is nothing to go back for.
    return re.compile(b"(?s:%b){%d}+" % (b"(?:" + b"|".join(forms) + b")", count))


_SHORT_ITEMS: Final = tuple((count, _short_items(count)) for count in (256, 16, 1))


def encode(value: Any, *, max_bytes: int = MAX_RECORD_BYTES) -> bytes:
    """Return the one encoding of ``value``: builtins, with ``CID`` for links.

    Raises ``LocalProtocolError`` for what DAG-CBOR or our limits forbid.
    """
    budget = _Budget()
    try:
        encoded = cbor2.dumps(_plain(value, MAX_CBOR_DEPTH, budget))
    except (cbor2.CBORError, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"a value is not DAG-CBOR: {error}") from error
    if len(encoded) > max_bytes:
        raise LocalProtocolError(
            f"a block of {len(encoded)} bytes is over the limit of {max_bytes}",
            code="too-big",
            got=len(encoded),
            limit=max_bytes,
        )
    return encoded


def encode_flat(value: dict[str, Any]) -> bytes | None:
    """Return what ``encode`` does for a short map of leaves, at a quarter of the cost; None for any
    other, and for all that is forbidden.
    """
    order = _order(tuple(value))
    if order is None:
        return None
    budget = _Budget()
    try:
        leaves = ((key, value[key]) for key in order)
        return cbor2.dumps({k: x if type(x) in _PLAIN else _plain(x, 0, budget) for k, x in leaves})
    except (LocalProtocolError, UnicodeEncodeError):  # containers too, for want of depth
        return None


@lru_cache(256)  # the same names come again and again: sorting them takes longer than all the rest
def _order(keys: tuple[Any, ...]) -> tuple[str, ...] | None:
    is_plain = len(keys) <= _FLAT_ITEMS and all(type(key) is str for key in keys)
    return tuple(_ordered(keys)) if is_plain else None


def decode(data: bytes, *, max_bytes: int = MAX_RECORD_BYTES, any_cid: bool = False) -> Any:
    """Return the value that ``data`` encodes: builtins, with ``CID`` for links.

    ``any_cid`` accepts every well-formed CID (as ``AnyCID``), for blocks that are not ours. Raises
    ``RemoteProtocolError`` for every other input than a strict encoding within the limits.
    """
    if len(data) > max_bytes:
        raise _invalid(f"{len(data)} bytes are over the limit of {max_bytes}")
    if len(data) > _SCAN_FROM_BYTES:
        _scan(data, any_cid)
    value = _load(data)
    if len(data) > _SCAN_FROM_BYTES:
        _bound_containers(value)
    if not _gives_back(value, data):
        raise _invalid("another encoding of the same value is the canonical one")
    root = [value]
    _settle(root, any_cid)
    return root[0]


def decode_verified(data: bytes) -> Any:
    """Decode ``data`` that ``decode`` has accepted before, at half the cost; for our own
    journal.
    """
    root = [_load(data)]
    _settle(root, any_cid=False)
    return root[0]


class _Budget:
    """How many more containers and items one value may hold."""

    __slots__ = ("containers", "items")

    def __init__(self) -> None:
        self.containers = MAX_CBOR_CONTAINERS
        self.items = MAX_CBOR_ITEMS

    def open(self, items: int) -> None:
        self.containers -= 1
        self.items -= items
        if self.items < 0 or self.containers < 0:
            raise LocalProtocolError(
                f"a value holds more than {MAX_CBOR_ITEMS} items"
                f" or {MAX_CBOR_CONTAINERS} lists and maps"
            )


def _plain(value: Any, depth: int, budget: _Budget) -> Any:
    """Return ``value`` as cbor2 must see it: sorted maps, links as tags, nothing forbidden."""
    kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType] - CBOR is untyped
    if kind in _PLAIN:
        return value
    if kind is CID:
        return cbor2.CBORTag(_LINK_TAG, b"\0" + value)
    if kind is int:
        if _INT_MIN <= value <= _INT_MAX:
            return value
        raise LocalProtocolError("an integer does not fit in 64 bits")
    if kind is float:
        if _is_plain_float(value):
            return value
        raise LocalProtocolError(f"the float {value} has no DAG-CBOR encoding")
    if isinstance(value, AnyCID):
        return cbor2.CBORTag(_LINK_TAG, b"\0" + bytes(value))
    return _plain_container(value, depth, budget)


def _plain_container(value: Any, depth: int, budget: _Budget) -> Any:
    kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType] - CBOR is untyped
    if kind not in (list, tuple, dict):
        raise LocalProtocolError(f"a {kind.__name__} has no DAG-CBOR encoding")
    if depth == 0:
        raise LocalProtocolError(f"a value is nested deeper than {MAX_CBOR_DEPTH}")
    budget.open(len(value) * (2 if kind is dict else 1))
    depth -= 1
    if kind is not dict:
        return [x if type(x) in _PLAIN else _plain(x, depth, budget) for x in value]
    for key in value:
        if type(key) is not str:
            raise LocalProtocolError(f"a map key is a {type(key).__name__}, not text")
    ordered = [(key, value[key]) for key in _ordered(value)]
    return {key: x if type(x) in _PLAIN else _plain(x, depth, budget) for key, x in ordered}


def _ordered(keys: Iterable[str]) -> list[str]:
    """Return map keys in their order: the shorter in UTF-8 first, equal lengths by their bytes."""
    by_text = sorted(keys)  # by code points, which is the order of their UTF-8 too
    if "".join(by_text).isascii():
        return sorted(by_text, key=len)
    return sorted(by_text, key=lambda key: len(key.encode()))


def _is_plain_float(value: float) -> bool:
    return math.isfinite(value) and (value != 0.0 or math.copysign(1.0, value) > 0)


def _invalid(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"a block is not strict DAG-CBOR: {reason}")


def _refuse_tag(*_: Any) -> Any:
    raise ValueError("tag")


# Every tag to which cbor2 gives a meaning of its own. Some are dangerous (35 compiles a pattern, 5
# makes numbers of any size, 28 and 29 share or cycle, 25 expands); all are refused before they act.
_KNOWN_TAGS: Final = (
    "0 1 2 3 4 5 25 28 29 30 35 36 37 52 54 100 256 258 260 261 1004 43000 43001 55799"
)
REFUSED_TAGS: Final[Mapping[int, Any]] = {int(tag): _refuse_tag for tag in _KNOWN_TAGS.split()}


def _load(data: bytes) -> Any:
    try:
        return cbor2.loads(
            data,
            semantic_decoders=REFUSED_TAGS,
            max_depth=MAX_CBOR_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,  # text and bytes: nobody can make their hashes collide
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise _invalid(str(error)) from error


def _gives_back(value: Any, data: bytes) -> bool:
    try:
        return cbor2.dumps(value) == data
    except (cbor2.CBORError, ValueError, TypeError, OverflowError):
        return False


def _settle(root: list[Any], any_cid: bool) -> None:
    """Check types, map keys and the item count everywhere below ``root``; put CIDs for link
    tags.
    """
    pending: list[Any] = [root]
    items = -1
    for container in pending:  # grows while it is walked
        items += len(container)
        values: Any = container
        if type(container) is dict:
            mapping = cast("dict[Any, Any]", container)
            _check_keys(mapping)
            items += len(mapping)
            values = mapping.values()
        if items > MAX_CBOR_ITEMS:
            raise _invalid(f"more than {MAX_CBOR_ITEMS} items")
        if not _LEAVES.issuperset(map(type, values)):  # most hold nothing but leaves
            _settle_items(container, pending, any_cid)


def _settle_items(container: Any, pending: list[Any], any_cid: bool) -> None:
    """Check the values of one container, replace its links, and add its containers to
    ``pending``.
    """
    # Replacing the value under an existing key while iterating is safe: the size does not change.
    is_map = isinstance(container, dict)
    places: Any = cast("Any", container).items() if is_map else enumerate(container)
    for place, item in places:
        kind: type[Any] = type(item)  # pyright: ignore[reportUnknownVariableType] - CBOR is untyped
        if kind in _LEAVES:
            continue
        if kind is list or kind is dict:
            pending.append(item)
        elif kind is cbor2.CBORTag:
            container[place] = _link(item, any_cid)
        elif kind is not float or not _is_plain_float(item):
            raise _invalid(f"{str(item)[:40]} is not allowed")


def _link(tag: cbor2.CBORTag, any_cid: bool) -> AnyCID:
    raw: Any = tag.value
    if tag.tag == _LINK_TAG and type(raw) is bytes and raw[:1] == b"\0":
        if len(raw) == 1 + CID_BYTES and raw.startswith(_STRICT_LINKS):
            return bytes.__new__(CID, raw[1:])  # checked: the constructor need not do it again
        if any_cid and is_well_formed(raw[1:]):
            return AnyCID(raw[1:])
    raise _invalid("a tag other than a link to a CIDv1 of raw or dag-cbor under sha2-256")


def _check_keys(container: dict[Any, Any]) -> None:
    if not _TEXT.issuperset(map(type, container)):
        raise _invalid("a map key is not text")
    if list(container) != _ordered(container):
        raise _invalid("map keys are not sorted")


def _scan(data: bytes, any_cid: bool) -> None:
    """Bound the number of items in ``data`` without building anything, whatever their structure.

    It bounds and nothing more: what it lets pass is still decoded, re-encoded and compared. Items
    are counted 256 or 16 at a match, so that the input cheapest to write is also the cheapest to
    refuse.
    """
    position = 0
    left = MAX_CBOR_ITEMS + 1  # the outermost value is not an item of anything
    while position < len(data):
        for items, pattern in _SHORT_ITEMS:
            run = pattern.match(data, position)
            if run is not None:
                left -= items
                position = run.end()
                break
        else:
            left -= 1
            position = _after_string(data, position, any_cid)
        if left < 0:
            raise _invalid(f"more than {MAX_CBOR_ITEMS} items")


def _after_string(data: bytes, position: int, any_cid: bool) -> int:
    """Return where the string with a long head at ``position`` ends; refuse every other head."""
    head = data[position]
    if head in _LONG_STRING_HEADS:
        width = 1 << (head & 3)
        size = int.from_bytes(data[position + 1 : position + 1 + width], "big")
        return position + 1 + width + size
    if any_cid and data.startswith(_LINK_HEAD, position):
        return position + len(_LINK_HEAD)
    raise _invalid(f"head {head:#x} at byte {position} is not allowed there")


def _bound_containers(value: Any) -> None:
    containers: list[Any] = [value] if type(value) in _CONTAINERS else []
    for container in containers:
        items: Any = container
        if type(container) is dict:
            items = cast("dict[Any, Any]", container).values()
        containers += [item for item in items if type(item) in _CONTAINERS]
        if len(containers) > MAX_CBOR_CONTAINERS:
            raise _invalid(f"more than {MAX_CBOR_CONTAINERS} lists and maps")
