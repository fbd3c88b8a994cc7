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
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import cbor2
import msgspec

from protocols import dagcbor
from protocols.cid import CID
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import MAX_NONCE_BYTES, MAX_RECORD_BYTES, MAX_ROLE_CHARS, MAX_SEQUENCE

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

_SHORT_LINKS: Final = 23  # a list of more has a longer head
_SHORT_LIST: Final = tuple(bytes((0x80 + items,)) for items in range(_SHORT_LINKS + 1))
_PAIR: Final = _SHORT_LIST[2]
_NONE: Final = cbor2.dumps(None)

USED: Final = "used"
GENERATED: Final = "generated"
INFORMED_BY: Final = "informed_by"
"""The directions of a record's links."""


class Outline(NamedTuple):
    """What an index keeps of a record: its fields, with links as the bytes of CIDs and the
    attributes still encoded.
    """

    kind: str
    links: list[tuple[str, str, bytes]]
    """(direction, role, target) of everything used, generated and informed by."""
    environment: bytes | None
    hardware: bytes | None
    start_us: int
    duration_us: int
    status: str
    attributes: bytes


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
        fields = [getattr(self, name) for name in self.__struct_fields__]
        try:
            msgspec.convert(fields, Record, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise LocalProtocolError(f"a record is invalid: {error}") from error
        return _written(self) or dagcbor.encode(fields)

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Read a record from outside; raises ``RemoteProtocolError`` unless every rule holds."""
        return _typed(dagcbor.decode(data, max_bytes=MAX_RECORD_BYTES))

    @classmethod
    def decode_verified(cls, data: bytes) -> Record:
        """Read a record that ``decode`` accepted before, at half the cost; for our own journal."""
        return _typed(dagcbor.decode_verified(data))


def _written(record: Record) -> bytes | None:
    """Write a valid record of the usual shape, short and flat, field by field, at a third of what
    the codec needs to walk it. None for any other, which the codec writes or refuses.
    """
    links = len(record.used) + len(record.generated) + len(record.informed_by)
    attributes = dagcbor.encode_flat(record.attributes)
    if attributes is None or links > _SHORT_LINKS:
        return None
    parts = [_SHORT_LIST[len(record.__struct_fields__)], cbor2.dumps(record.version)]
    parts += (cbor2.dumps(record.author), cbor2.dumps(record.nonce), _word(record.kind))
    for entities in (record.used, record.generated):
        parts.append(_SHORT_LIST[len(entities)])
        for cid, role in entities:
            parts += (_PAIR, dagcbor.LINK_HEAD, cid, _word(role))
    parts.append(_SHORT_LIST[len(record.informed_by)])
    for cid in (*record.informed_by, record.environment, record.hardware):
        parts += (dagcbor.LINK_HEAD, cid) if cid else (_NONE,)
    parts += (cbor2.dumps(record.start_us), cbor2.dumps(record.duration_us), _word(record.status))
    encoded = b"".join((*parts, attributes))
    return encoded if len(encoded) <= MAX_RECORD_BYTES else None


@lru_cache(256)  # kinds, roles and states are few, and at most MAX_ROLE_CHARS long
def _word(word: str) -> bytes:
    return cbor2.dumps(word)


def outline_verified(data: bytes) -> Outline:
    """Read of a record that ``Record.decode`` accepted before what an index keeps, at a fifth of
    the cost.
    """
    fields: list[Any] = cbor2.loads(data)
    fields += _LAST_DEFAULTS[len(fields) :]
    _, _, _, kind, used, generated, informed_by, environment, hardware, *rest = fields
    start_us, duration_us, status, attributes = rest[:4]
    links = [(USED, role, _target(tag)) for tag, role in used]
    links += [(GENERATED, role, _target(tag)) for tag, role in generated]
    links += [(INFORMED_BY, "", _target(tag)) for tag in informed_by]
    return Outline(
        kind,
        links,
        environment and _target(environment),
        hardware and _target(hardware),
        start_us,
        duration_us,
        status,
        cbor2.dumps(attributes),  # as they came: in order, and links are tags still
    )


# By place: an author may leave out what is at the end and as usual.
_LAST_DEFAULTS: Final[tuple[Any, ...]] = (*(None for _ in range(10)), 0, "ok", {})


def _target(tag: cbor2.CBORTag) -> bytes:
    return tag.value[1:]


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


def _typed(value: Any) -> Record:
    try:
        return msgspec.convert(value, Record, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"a record is invalid: {error}") from error
