"""The format of a journal's segments: what a peer has promised to remember, entry after entry.

::

    segment = header header entry*          two equal headers: one damaged sector loses nothing
    header  = "covey-journal-1\\n" | salt (16) | first 8 bytes of SHA-256 of both
    entry   = mark (4) | length u32 | kind u8 | digest (11) | body
    mark    = the salt's first 4 bytes
    digest  = the first 11 bytes of SHA-256(salt | length | kind | body)

Two things keep every other entry where it is when one is shortened or erased. A *filler* (kind 0)
stands for what is gone: its digest leaves the body out, which may be a hole in the file. A kind
with its highest bit set is *padded*: the last byte of its body says how many bytes of it do not
count, for a gap that is too small for a filler's head.

Bodies come from other peers, so a body may contain anything, even something that looks like an
entry. The salt is random in each journal and leaves the machine with no message: without it no body
can hold a mark or a digest that would be believed. That is what makes it safe to search behind a
damaged entry for the next whole one: a flipped bit in the middle costs that entry and not every one
after it.

A tail behind which nothing valid follows (torn, zeroed, garbage, flipped) was never acknowledged,
or is lost for good; either way it is cut. Only the last segment has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from hashlib import sha256
from struct import Struct
from typing import Any, Final, NamedTuple

import cbor2

from protocols.errors import LocalProtocolError
from protocols.limits import MAX_ENTRY_BYTES

MAGIC: Final = b"covey-journal-1\n"
SALT_BYTES: Final = 16
_CHECK_BYTES: Final = 8
_HEADER_COPY_BYTES: Final = len(MAGIC) + SALT_BYTES + _CHECK_BYTES
HEADER_BYTES: Final = 2 * _HEADER_COPY_BYTES

_DIGEST_BYTES: Final = 11
_KIND_AT: Final = 8
_HEAD: Final = Struct(f"!4sIB{_DIGEST_BYTES}s")
_DIGESTED: Final = Struct("!IB")
HEAD_BYTES: Final = _HEAD.size
FILLER: Final = 0
_PADDED: Final = 0x80


class Entry(IntEnum):
    """What an entry's body is; numbers are append-only, and a reader skips those it does not
    know.
    """

    RECORD = 1
    """A record of our own feed, not yet in a bundle: DAG-CBOR ``[epoch, sequence, record
    bytes]``.
    """
    HEADER = 2
    """A bundle cut from the records before it: DAG-CBOR ``[header bytes, signature]``."""
    BUNDLE = 3
    """A whole bundle that another peer sent: its bytes."""
    ACK = 4
    """An aggregator's signed acknowledgement: DAG-CBOR ``[payload, signature]``."""
    SALT = 5
    """Salts by the digests of what they were used for, ``[digest, salt, …]``: whoever holds the
    content can show the commitment.
    """
    # 0 is a filler, 6 was never written.
    EPOCH = 7
    """Our uncut records move: DAG-CBOR ``[new epoch, old epoch, first sequence]``.

    The records of the old epoch from that sequence on are now those of the new epoch from 0 on.
    """
    DROPPED = 8
    """A feed's epoch was let go of up to a sequence: DAG-CBOR ``[feed, epoch, next sequence, digest
    of the last header, aggregator]``. What of it stands in front of this entry is no longer held.
    """
    KEPT = 9
    """A record that is needed although it was dropped: its bytes. One that redacts others, or shows
    the role by which it does, is kept so before anything is erased: were its bundle damaged, what
    was erased would be taken for what has not come.
    """
    ERASED = 10
    """Bodies that tombstones had erased from the index and from this journal up to an offset:
    DAG-CBOR ``[offset, CID…]``.
    """


class Scanned(NamedTuple):
    """A whole entry found in a journal."""

    offset: int
    end_offset: int
    kind: int
    body: bytes


class Damage(NamedTuple):
    """Bytes in which no whole entry was found, although one follows."""

    offset: int
    end_offset: int


def encode_header(salt: bytes) -> bytes:
    """Return the first ``HEADER_BYTES`` of a segment of a journal with that salt."""
    if len(salt) != SALT_BYTES:
        raise LocalProtocolError(f"a journal's salt is {SALT_BYTES} bytes, not {len(salt)}")
    copy = MAGIC + salt
    return 2 * (copy + sha256(copy).digest()[:_CHECK_BYTES])


def decode_header(start: bytes) -> bytes | None:
    """Return the salt from a segment's first bytes, or none if both copies are damaged."""
    for at in (0, _HEADER_COPY_BYTES):
        copy = start[at : at + _HEADER_COPY_BYTES]
        content, check = copy[:-_CHECK_BYTES], copy[-_CHECK_BYTES:]
        if content.startswith(MAGIC) and sha256(content).digest()[:_CHECK_BYTES] == check:
            return content[len(MAGIC) :]
    return None


def encode_entry(salt: bytes, kind: int, body: bytes) -> bytes:
    """Return an entry's bytes; raises ``LocalProtocolError`` when the body is over the limit."""
    if len(body) > MAX_ENTRY_BYTES:
        raise LocalProtocolError(
            f"a journal entry of {len(body)} bytes is over the limit of {MAX_ENTRY_BYTES}",
            got=len(body),
        )
    return _HEAD.pack(salt[:4], len(body), kind, _digest(salt, kind, body)) + body


def encode_padded(salt: bytes, kind: int, body: bytes, padding: int) -> bytes:
    """Return an entry that takes ``padding`` bytes (1 to 255) more than its body needs."""
    return encode_entry(salt, kind | _PADDED, body + bytes(padding - 1) + bytes([padding]))


def encode_filler(salt: bytes, size: int) -> bytes:
    """Return the head of a filler that takes ``size`` bytes in all; the rest of them may be
    anything.
    """
    length = size - HEAD_BYTES
    digested = sha256(salt + _DIGESTED.pack(length, FILLER)).digest()[:_DIGEST_BYTES]
    return _HEAD.pack(salt[:4], length, FILLER, digested)


def entry_at(buffer: bytes, position: int, salt: bytes) -> Scanned | None:
    """Return the whole, valid entry at ``position`` of ``buffer``, or none; a filler has no
    body.
    """
    length = body_length(buffer, position, salt)
    start = position + HEAD_BYTES
    if length is None or start + length > len(buffer):
        return None
    if buffer[position + _KIND_AT] == FILLER:
        is_whole = encode_filler(salt, HEAD_BYTES + length) == buffer[position:start]
        return Scanned(position, start + length, FILLER, b"") if is_whole else None
    _, _, kind, digest = _HEAD.unpack_from(buffer, position)
    body = bytes(buffer[start : start + length])
    if _digest(salt, kind, body) != digest:
        return None
    if kind & _PADDED:
        return Scanned(position, start + length, kind ^ _PADDED, body[: -body[-1]])
    return Scanned(position, start + length, kind, body)


def body_length(buffer: bytes, position: int, salt: bytes) -> int | None:
    """Return how long the body of the entry at ``position`` says it is, or none if none starts
    there.
    """
    if position + HEAD_BYTES > len(buffer):
        return None
    mark, length, kind, _ = _HEAD.unpack_from(buffer, position)
    is_possible = mark == salt[:4] and (length <= MAX_ENTRY_BYTES or kind == FILLER)
    return length if is_possible else None


def scan(buffer: bytes, salt: bytes, start: int = 0) -> Iterator[Scanned | Damage]:
    """Yield every whole entry of ``buffer`` from ``start`` on, and the damage between them.

    What is behind the last entry yielded is the tail to cut. Offsets are positions in ``buffer``.
    """
    position = start
    while True:
        found = entry_at(buffer, position, salt) or _next_entry(buffer, position + 1, salt)
        if found is None:
            return
        if found.offset > position:
            yield Damage(position, found.offset)
        yield found
        position = found.end_offset


def _next_entry(buffer: bytes, position: int, salt: bytes) -> Scanned | None:
    while (position := buffer.find(salt[:4], position)) >= 0:
        found = entry_at(buffer, position, salt)
        if found is not None:
            return found
        position += 1
    return None


def _digest(salt: bytes, kind: int, body: bytes) -> bytes:
    return sha256(salt + _DIGESTED.pack(len(body), kind) + body).digest()[:_DIGEST_BYTES]


class RecordBody(NamedTuple):
    """The body of a ``RECORD`` entry: a record of our own feed and its place there. Of one that was
    redacted only the digest is left.
    """

    epoch: int
    sequence: int
    record: bytes
    digest: bytes = b""

    def encode(self) -> bytes:
        """Return the entry's body."""
        return _encode_body(self if self.digest else self[:3])

    def erased(self) -> RecordBody:
        """Return what is left when the record is redacted; it is no longer than before. Again it
        changes nothing: a crash may have it done twice.
        """
        return (
            self if self.digest else self._replace(record=b"", digest=sha256(self.record).digest())
        )

    @classmethod
    def decode(cls, body: bytes) -> RecordBody:
        """Read the body of an entry that ``scan`` found whole."""
        return cls(*_decode_body(body))


class HeaderBody(NamedTuple):
    """The body of a ``HEADER`` entry: the signature that makes a bundle of the records before
    it.
    """

    header: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Return the entry's body."""
        return _encode_body(self)

    @classmethod
    def decode(cls, body: bytes) -> HeaderBody:
        """Read the body of an entry that ``scan`` found whole."""
        return cls(*_decode_body(body))


class EpochBody(NamedTuple):
    """The body of an ``EPOCH`` entry: the uncut records from ``first_sequence`` on have moved."""

    epoch: int
    old_epoch: int
    first_sequence: int

    def encode(self) -> bytes:
        """Return the entry's body."""
        return _encode_body(self)

    @classmethod
    def decode(cls, body: bytes) -> EpochBody:
        """Read the body of an entry that ``scan`` found whole."""
        return cls(*_decode_body(body))


class ErasedBody(NamedTuple):
    """The body of an ``ERASED`` entry: these records are nowhere before that offset."""

    mark: int
    cids: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the entry's body."""
        return _encode_body((self.mark, *self.cids))

    @classmethod
    def decode(cls, body: bytes) -> ErasedBody:
        """Read the body of an entry that ``scan`` found whole."""
        mark, *cids = _decode_body(body)
        return cls(mark, tuple(cids))


class DroppedBody(NamedTuple):
    """The body of a ``DROPPED`` entry: everything below ``next_sequence`` was acknowledged by that
    aggregator and is gone here; ``digest`` names the last header that is.
    """

    feed: bytes
    epoch: int
    next_sequence: int
    digest: bytes
    aggregator: bytes

    def encode(self) -> bytes:
        """Return the entry's body."""
        return _encode_body(self)

    @classmethod
    def decode(cls, body: bytes) -> DroppedBody:
        """Read the body of an entry that ``scan`` found whole."""
        return cls(*_decode_body(body))


def _encode_body(body: tuple[int | bytes, ...]) -> bytes:
    # Not the strict codec: ints and bytes have one plain encoding, and every record passes here.
    return cbor2.dumps(list(body))


def _decode_body(body: bytes) -> list[Any]:
    # Our own writing, under a digest that no peer can make: there is nothing to distrust.
    return cbor2.loads(body)
