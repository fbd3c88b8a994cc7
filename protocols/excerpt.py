"""An excerpt: some records of a mesh, with all that is needed to check them without it.

It is a CAR file of these kinds of block, in this order:

- a **record**, as its author wrote it;
- a **proof**, behind the records that it proves: a bundle's header and the signature of its feed's
  key over it, which together commit to the digests of those records;
- **redacted**: a header whose record was erased, and the tombstone, in front of it, that says by
  whom and why; all that is left to verify is the header's signature over the record's digest;
- **member**: an author's certificate and its issuer's, where no record here shows them;
- **revocations**: the list of whom the root of the authors' mesh put out of it;
- **absent**: parents that records here name and that are not here, either because whoever exported
  had not got them (missing) or because they lie outside of what was asked for (left out);
- the **contents**, last of all: how many there are of each, so that a file that was cut shows.

Its roots are what was asked for, if anything was, and the contents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, ClassVar, Final, TypeAlias, cast

import msgspec

from protocols import dagcbor
from protocols.car import encode_head, encode_section
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import SignedHeader
from protocols.limits import MAX_ABSENT_LISTED, MAX_BUNDLE_RECORDS
from protocols.membership import Membership
from protocols.record import Record

Some: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Listed: TypeAlias = Annotated[tuple[CID, ...], msgspec.Meta(max_length=MAX_ABSENT_LISTED)]

TYPE: Final = "covey"
"""The key under which a block that is no record says what it is."""


@dataclass(frozen=True, slots=True)
class Part:
    """Records of one bundle, in its order, and the header that commits to them."""

    proof: SignedHeader
    records: tuple[bytes, ...]


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle's header and its feed's signature over it, both as bytes."""

    name: ClassVar[str] = "proof/1"
    header: bytes
    signature: bytes


class Redacted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records whose bodies were erased, under a header that names them."""

    name: ClassVar[str] = "redacted/1"
    header: bytes
    signature: bytes
    records: Annotated[tuple[CID, ...], msgspec.Meta(min_length=1, max_length=MAX_BUNDLE_RECORDS)]
    tombstone: CID
    """The record, in front of this, that had them erased."""


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate, which proves itself, and its issuer's."""

    name: ClassVar[str] = "member/1"
    certificate: bytes
    issuer_certificate: bytes


class Revocations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mesh's revocation list, which proves itself."""

    name: ClassVar[str] = "revocations/1"
    revoked: bytes


class Absent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parents that are not here."""

    name: ClassVar[str] = "absent/1"
    missing: Listed = ()
    """Nobody had sent them to whoever exported this."""
    left_out: Listed = ()
    """They are beyond what was asked for."""


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many blocks and absent parents the file holds."""

    name: ClassVar[str] = "contents/1"
    asked: CID | None
    records: Some
    proofs: Some
    missing: Some
    left_out: Some
    redacted: Some = 0
    members: Some = 0
    revocations: Some = 0


Statement: TypeAlias = Proof | Redacted | Member | Revocations | Absent | Contents
_MAP: Final = 5  # the major type in the first byte of CBOR
_STATEMENTS: Final[dict[str, type[Statement]]] = {
    kind.name: kind for kind in (Proof, Redacted, Member, Revocations, Absent, Contents)
}


def encode(statement: Statement) -> bytes:
    """Return the bytes of a block that is no record."""
    fields: dict[str, Any] = {
        name: getattr(statement, name) for name in statement.__struct_fields__
    }
    return dagcbor.encode({TYPE: statement.name, **fields})


def decode(block: bytes) -> Statement | Record:
    """Read a block; raise ``RemoteProtocolError`` if it is of no kind that an excerpt holds."""
    if not block or block[0] >> 5 != _MAP:
        return Record.decode(block)
    fields = cast("dict[str, Any]", dagcbor.decode(block))
    kind = _STATEMENTS.get(str(fields.pop(TYPE, None)))
    if kind is None:
        raise RemoteProtocolError("a block is no record and does not say what else it is")
    try:
        return msgspec.convert(fields, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"a block is no valid {kind.name}: {error}") from error


def parents_of(record: Record) -> list[CID]:
    """Return the records that a record names: what informed it, its environment, its hardware."""
    blocks = (record.environment, record.hardware)
    return [*record.informed_by, *(block for block in blocks if block is not None)]


@dataclass(slots=True)
class Writer:
    """Makes the bytes of one excerpt: ``part`` for each, then ``end``, then ``head``.

    The head names the contents by their CID, which is known only at the end; it has the same length
    from the start, so that room can be kept for it.
    """

    asked: CID | None = None
    records: set[CID] = field(default_factory=set[CID])
    parents: set[CID] = field(default_factory=set[CID])
    redacted: set[CID] = field(default_factory=set[CID])
    proofs: int = 0
    members: int = 0
    revocations: int = 0

    def head(self, contents: CID | None = None) -> bytes:
        """Return the first bytes of the file."""
        roots = [*([self.asked] if self.asked else []), contents or CID.of(b"")]
        return encode_head(roots)

    def part(self, part: Part) -> Iterator[bytes]:
        """Yield the sections of a part: its records that did not come before, then its proof."""
        is_new = False
        for encoded in part.records:
            cid = CID.of(encoded)
            if cid not in self.records:
                is_new = True
                self.records.add(cid)
                self.parents.update(parents_of(Record.decode_verified(encoded)))
                yield encode_section(cid, encoded)
        if is_new:
            self.proofs += 1
            yield _section(Proof(part.proof.header_bytes, part.proof.signature))

    def redact(self, proof: SignedHeader, record: CID, tombstone: CID) -> bytes:
        """Return the section of a record that a header names and a tombstone had erased; the
        tombstone is in a part before.
        """
        self.redacted.add(record)
        return _section(Redacted(proof.header_bytes, proof.signature, (record,), tombstone))

    def member(self, member: Membership) -> bytes:
        """Return the section of a certificate that no record shows."""
        self.members += 1
        chain = member.certificate.encode(), member.issuer_certificate.encode()
        return _section(Member(*chain))

    def revoke(self, encoded: bytes) -> bytes:
        """Return the section of a revocation list."""
        self.revocations += 1
        return _section(Revocations(encoded))

    @property
    def absent(self) -> set[CID]:
        """The parents that no part held so far, and that were not redacted."""
        return self.parents - self.records - self.redacted

    def end(self, known: set[CID]) -> Iterator[tuple[bytes, CID]]:
        """Yield the last sections with their CIDs, the contents' last; ``known`` are those absent
        parents that whoever exports does hold.
        """
        left_out, missing = sorted(self.absent & known), sorted(self.absent - known)
        for listed in _chunks(missing):
            yield _named(Absent(missing=listed))
        for listed in _chunks(left_out):
            yield _named(Absent(left_out=listed))
        absent = (len(missing), len(left_out), len(self.redacted))
        counts = (len(self.records), self.proofs, *absent, self.members, self.revocations)
        yield _named(Contents(self.asked, *counts))


def _chunks(cids: Iterable[CID]) -> Iterator[tuple[CID, ...]]:
    rest = iter(cids)
    while chunk := tuple(islice(rest, MAX_ABSENT_LISTED)):
        yield chunk


def _named(statement: Statement) -> tuple[bytes, CID]:
    block = encode(statement)
    cid = CID.of(block)
    return encode_section(cid, block), cid


def _section(statement: Statement) -> bytes:
    return _named(statement)[0]
