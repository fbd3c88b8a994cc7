"""Strict DAG-CBOR: one value has exactly one encoding, so equal content has an equal CID
everywhere.

The rule of acceptance is that re-encoding gives the input back. It covers definite lengths, minimal
heads, 64-bit floats, duplicate keys and trailing bytes at C speed; what the encoder would reproduce
although it is forbidden (key order, tags other than 42, NaN, infinities) is checked on the decoded
value. Where DAG-CBOR leaves room, a ``Profile`` says what is taken.

Size, depth and the number of items are bounded before anything costs much, in both directions:
cbor2's encoder overflows the C stack on deep values, and its decoder spends 73 bytes of memory a
byte of input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import cbor2

from protocols.cbor_scan import has_more_items
from protocols.cid import CID, CID_BYTES, PREFIXES, AnyCID, is_strict, is_well_formed
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import (
    MAX_CBOR_CONTAINERS,
    MAX_CBOR_DEPTH,
    MAX_CBOR_ITEMS,
    MAX_RECORD_BYTES,
)

Tag = cbor2.CBORTag
LINK_TAG: Final = 42
SMALL_BYTES: Final = 2 << 10
"""So few bytes reach no limit of items, lists or maps."""
_SCAN_FROM_BYTES: Final = 4 << 10  # what is smaller costs cbor2 less than the scan would save
_INT_MIN: Final = -(1 << 64)
_INT_MAX: Final = (1 << 64) - 1
_LEAVES: Final = frozenset((int, str, bytes, bool, type(None)))
_PLAIN: Final = _LEAVES - {int}  # whatever their value, cbor2 encodes them as they must be
_LIST: Final = frozenset((list,))
_MAP: Final = frozenset((dict,))
_CONTAINERS: Final = _LIST | _MAP
_KINDS: Final = _CONTAINERS | {float, Tag}
_TEXT: Final = frozenset((str,))
_STRICT_LINKS: Final = tuple(b"\0" + prefix for prefix in PREFIXES.values())


@dataclass(frozen=True, slots=True)
class Profile:
    """What is taken where DAG-CBOR itself would take more."""

    has_any_cid: bool
    """Links to every well-formed CID, or only to those that are a ``CID``."""
    has_minus_zero: bool
    """-0.0 beside 0.0, or one zero, so that equal numbers have equal bytes."""


RECORD: Final = Profile(has_any_cid=False, has_minus_zero=False)
"""What covey's own blocks are."""
GENERIC: Final = Profile(has_any_cid=True, has_minus_zero=True)
"""All that the IPLD specification allows, within our limits; for blocks that are not ours."""


_AnyMap = dict[Any, Any]
_Place = tuple[Any, Any, AnyCID]
"""A link in a decoded value: a container, the key or index of the link's tag in it, and the CID
that shall stand there.
"""


def encode(value: Any, *, max_bytes: int = MAX_RECORD_BYTES, profile: Profile = RECORD) -> bytes:
    """Return the one encoding of ``value``: builtins, with ``CID`` for links.

    Raises ``LocalProtocolError`` for what DAG-CBOR, the profile or our limits forbid.
    """
    allowance = _Allowance(profile)
    try:
        encoded = cbor2.dumps(_plain(value, MAX_CBOR_DEPTH, allowance))
    except (cbor2.CBORError, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"a value is not DAG-CBOR: {error}") from error
    check_size(encoded, max_bytes)
    return encoded


def encode_flat(values: dict[str, Any]) -> bytes:
    """Return ``encode`` of a map of a few values that are no lists or maps, for a third of its
    cost: its keys were mostly seen before.
    """
    plain: _AnyMap = {}
    try:
        for key in _ordered_once(tuple(values)):
            value = values[key]
            if type(value) is CID:
                value = Tag(LINK_TAG, b"\0" + value)
            elif not _is_scalar(value):
                return encode(values)
            plain[key] = value
        return cbor2.dumps(plain)
    except (cbor2.CBORError, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"a value is not DAG-CBOR: {error}") from error


def check_size(encoded: bytes, max_bytes: int) -> None:
    """Raise ``LocalProtocolError`` for a block that is too large."""
    if len(encoded) > max_bytes:
        raise LocalProtocolError(
            f"a block of {len(encoded)} bytes is over the limit of {max_bytes}",
            code="too-big",
            got=len(encoded),
            limit=max_bytes,
        )


def decode(data: bytes, *, max_bytes: int = MAX_RECORD_BYTES, profile: Profile = RECORD) -> Any:
    """Return the value that ``data`` encodes: builtins, with ``CID`` for links, and ``AnyCID`` for
    those of other kinds if the profile takes them.

    Raises ``RemoteProtocolError`` for every other input than a strict encoding within the limits.
    """
    if len(data) > max_bytes:
        raise _invalid(f"{len(data)} bytes are over the limit of {max_bytes}")
    if len(data) > _SCAN_FROM_BYTES:
        _bound_items(data)
    root = [load(data)]
    links = _links(root, profile)  # before re-encoding: it bounds what that may cost
    _check_gives_back(root[0], data)
    for container, key, cid in links:
        container[key] = cid
    return root[0]


def decode_verified(data: bytes) -> Any:
    """Decode ``data`` that ``decode`` has accepted before, at less cost; for our own journal."""
    root = [load(data)]
    settle(root)
    return root[0]


def load_exact(data: bytes) -> Any:
    """Return what at most ``SMALL_BYTES`` encode, with links still as tags.

    It re-encodes to ``data``. The rest is for the caller to check: links by ``link``, what may hold
    maps or floats by ``settle``, and depth.
    """
    value = load(data)
    _check_gives_back(value, data)
    return value


def settle(container: Any) -> None:
    """Check what a list or map that was loaded holds, at any depth, and put CIDs for its links;
    raises ``RemoteProtocolError``.
    """
    if type(container) in _MAP and _LEAVES.issuperset(map(type, container.values())):
        _check_keys([container])  # nearly all attributes are so
        return
    for each, key, cid in _links([container], RECORD):
        each[key] = cid


class _Allowance:
    """What one value may hold, and how many more containers and items."""

    __slots__ = ("containers", "items", "profile")

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.containers = MAX_CBOR_CONTAINERS
        self.items = MAX_CBOR_ITEMS

    def open(self, items: int) -> None:
        self.containers -= 1
        self.items -= items
        if self.items < 0 or self.containers < 0:
            raise LocalProtocolError(
                f"a value holds more than {MAX_CBOR_ITEMS} items"
                f" or {MAX_CBOR_CONTAINERS} lists, maps and links"
            )

    def link(self, cid: AnyCID) -> Tag:
        self.open(0)
        return Tag(LINK_TAG, b"\0" + cid)


def _plain(value: Any, depth: int, allowance: _Allowance) -> Any:
    """Return ``value`` as cbor2 must see it: sorted maps, links as tags, nothing forbidden."""
    kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType] - CBOR is untyped
    if kind in _PLAIN:
        return value
    if kind is CID:
        return allowance.link(value)
    if kind is int:
        if _INT_MIN <= value <= _INT_MAX:
            return value
        raise LocalProtocolError("an integer does not fit in 64 bits")
    if kind is float:
        if _is_allowed(value, allowance.profile):
            return value
        raise LocalProtocolError(f"the float {value} has no encoding here")
    if isinstance(value, AnyCID):
        if is_strict(value) or (allowance.profile.has_any_cid and is_well_formed(value)):
            return allowance.link(value)
        raise LocalProtocolError(f"a link to {str(value)[:80]} has no encoding here")
    return _plain_container(value, depth, allowance)


def _plain_container(value: Any, depth: int, allowance: _Allowance) -> Any:
    kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType] - CBOR is untyped
    if kind not in (list, tuple, dict):
        raise LocalProtocolError(f"a {kind.__name__} has no DAG-CBOR encoding")
    if depth == 0:
        raise LocalProtocolError(f"a value is nested deeper than {MAX_CBOR_DEPTH}")
    allowance.open(len(value) * (2 if kind is dict else 1))
    depth -= 1
    if kind is not dict:
        return [x if type(x) in _PLAIN else _plain(x, depth, allowance) for x in value]
    if not _TEXT.issuperset(map(type, value)):
        raise LocalProtocolError("a map key is not text")
    ordered = [(key, value[key]) for key in _ordered(value)]
    return {key: x if type(x) in _PLAIN else _plain(x, depth, allowance) for key, x in ordered}


@lru_cache(256)
def _ordered_once(keys: tuple[str, ...]) -> list[str]:
    if not _TEXT.issuperset(map(type, keys)):
        raise LocalProtocolError("a map key is not text")
    return _ordered(keys)


def _ordered(keys: Iterable[str]) -> list[str]:
    """Return map keys in their order: the shorter in UTF-8 first, equal lengths by their bytes."""
    by_text = sorted(keys)  # by code points, which is the order of their UTF-8 too
    if "".join(by_text).isascii():
        return sorted(by_text, key=len)
    return sorted(by_text, key=lambda key: len(key.encode()))


def _is_scalar(value: Any) -> bool:
    """Say whether a value is neither list, map nor link, and encoded as it is."""
    if type(value) is int:
        return _INT_MIN <= value <= _INT_MAX
    return type(value) in _PLAIN or (type(value) is float and _is_allowed(value, RECORD))


def _is_allowed(value: float, profile: Profile) -> bool:
    return math.isfinite(value) and (
        value != 0.0 or profile.has_minus_zero or math.copysign(1.0, value) > 0
    )


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


def load(data: bytes) -> Any:
    """Return what ``data`` encodes as cbor2 reads it, with links still as tags; raises
    ``RemoteProtocolError``. Only the nesting is bounded.
    """
    try:
        return cbor2.loads(
            data,
            semantic_decoders=REFUSED_TAGS,
            max_depth=MAX_CBOR_DEPTH + 1,  # to cbor2 a link is a level too
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,  # text and bytes: nobody can make their hashes collide
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise _invalid(str(error)) from error


def _check_gives_back(value: Any, data: bytes) -> None:
    try:
        encoded = cbor2.dumps(value)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise _invalid(str(error)) from error
    if encoded != data:
        raise _invalid("another encoding of the same value is the canonical one")


def _bound_items(data: bytes) -> None:
    try:
        is_too_much = has_more_items(data, MAX_CBOR_ITEMS)
    except ValueError as error:
        raise _invalid(str(error)) from error
    if is_too_much:
        raise _invalid(f"more than {MAX_CBOR_ITEMS} items")


def _links(root: list[Any], profile: Profile) -> list[_Place]:
    """Check everything below ``root`` and return where links stand, and which.

    It goes by levels and has each looked at as a whole: a step of Python for each of 2,000 maps
    would cost more than all the rest.
    """
    is_nested = type(root[0]) in _CONTAINERS
    level: Sequence[Any] = root if is_nested else [root]
    items = containers = 0 if is_nested else -1  # the root itself is not the block's
    links: list[_Place] = []
    for _ in range(MAX_CBOR_DEPTH):
        maps: Sequence[_AnyMap] = [each for each in level if type(each) in _MAP]
        values = _values(level, maps)
        kinds = [*map(type, values)]
        containers += len(level) + kinds.count(Tag)
        items += len(values)
        if maps:
            items += sum(map(len, maps))
        if items > MAX_CBOR_ITEMS or containers > MAX_CBOR_CONTAINERS:
            raise _invalid(
                f"more than {MAX_CBOR_ITEMS} items or {MAX_CBOR_CONTAINERS} lists, maps and links"
            )
        _check_keys(maps)
        found = set(kinds) - _LEAVES
        if not _CONTAINERS.issuperset(found):
            _check_kinds(values, found, profile)
            if Tag in found:
                links += _links_within(level, profile)
        if _CONTAINERS.isdisjoint(found):
            return links
        level = [value for value in values if type(value) in _CONTAINERS]
    raise _invalid(f"it is nested deeper than {MAX_CBOR_DEPTH}")


def _values(level: Sequence[Any], maps: Sequence[_AnyMap]) -> Sequence[Any]:
    """Return what is directly within any container of ``level``, of which ``maps`` are a part."""
    if len(level) == 1 and not maps:
        return level[0]
    lists = [each for each in level if type(each) in _LIST] if maps else level
    return [*chain.from_iterable(lists), *chain.from_iterable(each.values() for each in maps)]


def _check_kinds(values: Sequence[Any], kinds: set[type[Any]], profile: Profile) -> None:
    if not _KINDS.issuperset(kinds):
        raise _invalid("it holds what is no part of IPLD's data model")
    if float in kinds:
        floats = [value for value in values if type(value) is float]
        if not all(map(math.isfinite, floats)):
            raise _invalid("NaN and infinity are not allowed")
        zeros = [value for value in floats if value == 0.0]
        if not all(_is_allowed(value, profile) for value in zeros):
            raise _invalid("-0.0 is not allowed")


def _links_within(level: Sequence[Any], profile: Profile) -> list[_Place]:
    links: list[_Place] = []
    for container in level:
        places: Any = container.items() if type(container) in _MAP else enumerate(container)
        links += [(container, at, link(x, profile)) for at, x in places if type(x) is Tag]
    return links


def link(tag: Any, profile: Profile = RECORD) -> AnyCID:
    """Return the CID of a decoded link; raises ``RemoteProtocolError`` for everything else."""
    if type(tag) is Tag and tag.tag == LINK_TAG:
        raw = tag.value
        if type(raw) is bytes and raw[:1] == b"\0":
            if len(raw) == 1 + CID_BYTES and raw.startswith(_STRICT_LINKS):
                return bytes.__new__(CID, raw[1:])  # checked: its constructor need not do it again
            if profile.has_any_cid and is_well_formed(raw[1:]):
                return AnyCID(raw[1:])
    raise _invalid("a tag other than a link to a CID, here of raw or dag-cbor under sha2-256")


def _check_keys(maps: Iterable[_AnyMap]) -> None:
    """Raise ``RemoteProtocolError`` unless the keys of each decoded map are text and in order."""
    for each in maps:
        try:
            keys = [*map(str.encode, each)]
        except TypeError as error:
            raise _invalid("a map key is not text") from error
        if len(keys) > 1:
            ordered = sorted(keys)
            ordered.sort(key=len)
            if ordered != keys:
                raise _invalid("map keys are not sorted")
