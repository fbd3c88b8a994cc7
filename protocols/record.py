"""A record: an immutable, content-addressed statement that something happened.

On the wire and on disk it is a strict DAG-CBOR positional list, because positions decode at C speed
and cost no bytes. A record does not hold its place in its author's feed: the signed bundle header
does, so a tail may move to a new epoch without changing any CID, and the author's key inside keeps
others from signing it as theirs.

In the words of W3C PROV the record is the activity, ``used`` and ``generated`` are its entities
with their roles, ``informed_by`` are earlier activities, and the author is the agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, TypeAlias

import cbor2
import msgspec

from protocols import dagcbor
from protocols.cbor_scan import CID_HEAD
from protocols.cid import CID
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import MAX_NONCE_BYTES, MAX_RECORD_BYTES, MAX_ROLE_CHARS, MAX_SEQUENCE
from protocols.record_form import author_if_usual

VERSION: Final = 1

PublicKey: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Word: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ROLE_CHARS)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQUENCE)]
Link = tuple[CID, Word]
"""An entity and the role that it played: ``(cid, "model")``."""

# [version, author, nonce…]: a head byte, a version below 24, a 32-byte string, then the nonce's
# head.
_NONCE_HEAD_AT: Final = 1 + 1 + 2 + 32
_EMPTY_BYTES_HEAD: Final = 0x40
_SHORT_LENGTH: Final = 0x1F  # the bits of a head that tell a length up to 23, or where it stands

# What the encodings of nearly all records are made of.
_FEW: Final = 23  # as many as the one-byte head of a list can count
_LIST: Final = frozenset((list,))
_MAP: Final = frozenset((dict,))
_NESTING: Final = _LIST | _MAP | {tuple}
_FIELDS: Final = 13
_FIELDS_HEAD: Final = bytes((0x80 + _FIELDS,))
_AUTHOR_HEAD: Final = b"\x58\x20"
_NULL: Final = b"\xf6"
_VERSIONS: Final = tuple(bytes((version,)) for version in range(_FEW + 1))
_NONCE_HEADS: Final = tuple(
    cbor2.dumps(bytes(size))[: -size or None] for size in range(MAX_NONCE_BYTES + 1)
)
_LIST_HEADS: Final = tuple(bytes((0x80 + count,)) for count in range(_FEW + 1))
_LINK_HEAD: Final = b"\x82" + CID_HEAD

USED: Final = "used"
GENERATED: Final = "generated"
INFORMED_BY: Final = "informed_by"
"""The directions of a record's links."""


class Record(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One statement by ``author`` about what ran, when, on what and with which outcome.

    Fields are append-only: a later version may add some at the end, which this one ignores.
    """

    version: Annotated[int, msgspec.Meta(ge=1, le=23)] = VERSION
    author: PublicKey
    nonce: Annotated[bytes, msgspec.Meta(max_length=MAX_NONCE_BYTES)]
    """Tells equal statements apart. Empty in a block, whose CID shall depend on content alone."""
    kind: Word
    used: tuple[Link, ...] = ()
    generated: tuple[Link, ...] = ()
    informed_by: tuple[CID, ...] = ()
    environment: CID | None = None
    hardware: CID | None = None
    start_us: Count
    """Wall clock, microseconds since 1970, UTC: data only, nothing is ordered by it."""
    duration_us: Count = 0
    status: Word = "ok"
    attributes: dict[str, Any] = {}

    def encode(self) -> bytes:
        """Return the record's bytes; its name is ``CID.of`` them.

        Raises ``LocalProtocolError`` for a record that others would refuse.
        """
        fields = msgspec.structs.astuple(self)
        try:
            msgspec.convert(fields, Record, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise LocalProtocolError(f"a record is invalid: {error}") from error
        return _joined(self) if _is_small(self) else dagcbor.encode(fields)

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Read a record from outside; raises ``RemoteProtocolError`` unless every rule holds."""
        if len(data) <= dagcbor.SMALL_BYTES:
            fields = dagcbor.load_exact(data)
            if _is_flat(fields):
                return _typed_flat(fields)
        return _typed(dagcbor.decode(data, max_bytes=MAX_RECORD_BYTES))

    @classmethod
    def decode_verified(cls, data: bytes) -> Record:
        """Read a record that ``decode`` accepted before, at half the cost; for our own journal."""
        fields = dagcbor.load(data)
        return _typed_flat(fields) if _is_flat(fields) else _typed(dagcbor.decode_verified(data))


def check(data: bytes) -> bytes:
    """Return the author of a record from outside, which ``Record.decode`` would take, at a quarter
    of its cost; raises ``RemoteProtocolError`` unless every rule holds.
    """
    author = author_if_usual(data)
    return Record.decode(data).author if author is None else author


def _is_small(record: Record) -> bool:
    """Say whether a record is too small and flat to break a limit of items or depth."""
    counts = (len(record.used), len(record.generated), len(record.informed_by))
    attributes = record.attributes
    return (
        max(counts) <= _FEW
        and len(attributes) <= _FEW
        and _NESTING.isdisjoint(map(type, attributes.values()))
    )


def _joined(record: Record) -> bytes:
    """Encode a valid, small record from parts, most of which are constant or were seen before: half
    of what ``dagcbor.encode`` takes for the same bytes.
    """
    environment, hardware = record.environment, record.hardware
    parts = [
        _FIELDS_HEAD,
        _VERSIONS[record.version],
        _AUTHOR_HEAD,
        record.author,
        _NONCE_HEADS[len(record.nonce)],
        record.nonce,
        _encoded_word(record.kind),
        _LIST_HEADS[len(record.used)],
        *[_LINK_HEAD + cid + _encoded_word(role) for cid, role in record.used],
        _LIST_HEADS[len(record.generated)],
        *[_LINK_HEAD + cid + _encoded_word(role) for cid, role in record.generated],
        _LIST_HEADS[len(record.informed_by)],
        *[CID_HEAD + cid for cid in record.informed_by],
        _NULL if environment is None else CID_HEAD + environment,
        _NULL if hardware is None else CID_HEAD + hardware,
        cbor2.dumps((record.start_us, record.duration_us))[1:],
        _encoded_word(record.status),
        dagcbor.encode_flat(record.attributes),
    ]
    encoded = b"".join(parts)
    dagcbor.check_size(encoded, MAX_RECORD_BYTES)
    return encoded


@lru_cache(1_024)
def _encoded_word(word: str) -> bytes:
    return dagcbor.encode(word)


def block(
    author: bytes, kind: str, attributes: Mapping[str, Any], generated: tuple[Link, ...] = ()
) -> Record:
    """Return a record that only carries content (an environment, a machine) to be linked to by CID.

    It has no nonce and no time, so one author's same content always has the same CID.
    """
    return Record(
        author=author,
        nonce=b"",
        kind=kind,
        generated=generated,
        start_us=0,
        attributes=dict(attributes),
    )


def is_block(data: bytes) -> bool:
    """Say whether a record's bytes are a block's, by its empty nonce, without decoding them."""
    return len(data) > _NONCE_HEAD_AT and data[_NONCE_HEAD_AT] == _EMPTY_BYTES_HEAD


def kind_of(data: bytes) -> str:
    """Return the kind of a record that ``Record.decode`` accepted before, without decoding it."""
    start, end = _string_at(data, _NONCE_HEAD_AT)
    start, end = _string_at(data, end)
    return data[start:end].decode()


def _string_at(data: bytes, at: int) -> tuple[int, int]:
    """Return where the bytes or text whose head stands at ``at`` begin and end."""
    length = data[at] & _SHORT_LENGTH
    if length <= _FEW:
        return at + 1, at + 1 + length
    start = at + 1 + (1 << (length - _FEW - 1))
    return start, start + int.from_bytes(data[at + 1 : start], "big")


def _is_flat(fields: Any) -> bool:
    """Say whether decoded fields are all of this version, with no list or map in the attributes."""
    if type(fields) not in _LIST or len(fields) != _FIELDS:
        return False
    attributes = fields[-1]
    return type(attributes) in _MAP and _NESTING.isdisjoint(map(type, attributes.values()))


def _typed_flat(fields: list[Any]) -> Record:
    """Return the record of flat fields whose links are still tags, at two thirds of what
    ``dagcbor.decode`` costs: but for the attributes, their types leave nothing to be checked.
    """
    dagcbor.settle(fields[-1])
    try:
        return msgspec.convert(fields, Record, builtin_types=(bytes,), dec_hook=_linked)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"a record is invalid: {error}") from error


def _linked(_: type[Any], tag: Any) -> Any:
    return dagcbor.link(tag)


def _typed(value: Any) -> Record:
    try:
        return msgspec.convert(value, Record, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"a record is invalid: {error}") from error
