"""Feeds: one peer's append-only log of records, handed on in signed bundles.

A bundle is 1 to 64 consecutive records under one signature. Its header names the feed, the epoch,
the first sequence number, every record's digest and the header before it, so a bundle is valid or
not by itself: merging feeds is set union, and order, duplication and partition can't change the
result.

Bytes of a bundle: ``[header, signature, [record…]]``, all byte strings, in strict DAG-CBOR. The
signature is the feed key's over DSSE's encoding of the header, which makes a DSSE export a re-
wrapping. No bytes at all in a record's place are an absent body: whoever sent the bundle lacked it
or had to erase it. The header commits to its digest all the same, so such a bundle is valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Any, Final

import cbor2
import msgspec

from protocols import dagcbor
from protocols.bundle_form import HeaderParts, envelope_parts, header_parts
from protocols.cid import CID
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.keys import PeerId, SigningKey, pae, peer_id_of, verify
from protocols.limits import (
    MAX_BUNDLE_BYTES,
    MAX_BUNDLE_RECORDS,
    MAX_EPOCH,
    MAX_RECORD_BYTES,
    MAX_SEQUENCE,
)
from protocols.record import Count, PublicKey, check

VERSION: Final = 1
HEADER_TYPE: Final = "application/vnd.covey.header+cbor"
"""The DSSE payload type under which headers are signed."""

ABSENT: Final = b""
"""Stands for a record's body that is not there; no record is that short."""

_Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Digests = Annotated[tuple[_Digest, ...], msgspec.Meta(min_length=1, max_length=MAX_BUNDLE_RECORDS)]
_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class Header(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a feed's key signs: the place, digests and predecessor of 1 to 64 consecutive
    records.
    """

    version: Annotated[int, msgspec.Meta(ge=1)] = VERSION
    feed: PublicKey
    epoch: Annotated[int, msgspec.Meta(ge=0, lt=MAX_EPOCH)]
    first_sequence: Count
    digests: _Digests
    previous: CID | None
    """The header before in this epoch; none exactly when the epoch starts here."""
    time_us: Count
    """Wall clock of the author: data only."""

    def __post_init__(self) -> None:
        if (self.previous is None) != (self.first_sequence == 0):
            raise ValueError("exactly the first header of an epoch has no predecessor")
        if self.next_sequence > MAX_SEQUENCE:
            raise ValueError("sequence numbers end before this")

    @property
    def next_sequence(self) -> int:
        """The sequence number after the last record of the bundle."""
        return self.first_sequence + len(self.digests)

    def encode(self) -> bytes:
        """Return the bytes that are signed."""
        return dagcbor.encode([getattr(self, name) for name in self.__struct_fields__])

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read a header; raises ``RemoteProtocolError`` unless every rule holds."""
        parts = header_parts(data)
        if parts is not None and parts.epoch < MAX_EPOCH:
            return cls._of(parts)
        return _convert(dagcbor.decode(data), cls)

    @classmethod
    def decode_verified(cls, data: bytes) -> Header:
        """Read a header that ``decode`` accepted before; for our own journal."""
        parts = header_parts(data)
        return cls._of(parts) if parts else _convert(dagcbor.decode_verified(data), cls)

    @classmethod
    def _of(cls, parts: HeaderParts) -> Header:
        """Return a header of fields whose types are right, if its rules hold."""
        version, feed, epoch, first_sequence, digests, previous, time_us = parts
        try:
            return cls(
                version=version,
                feed=feed,
                epoch=epoch,
                first_sequence=first_sequence,
                digests=digests,
                previous=None if previous is None else CID(previous),
                time_us=time_us,
            )
        except ValueError as error:
            raise RemoteProtocolError(f"a bundle is invalid: {error}") from error


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    """The three parts of a bundle before any of them is looked into."""

    header: bytes
    signature: _Signature
    records: Annotated[tuple[bytes, ...], msgspec.Meta(min_length=1, max_length=MAX_BUNDLE_RECORDS)]


@dataclass(frozen=True, slots=True)
class SignedHeader:
    """A header with its signature: all that is needed to prove what a feed's key once said."""

    header_bytes: bytes
    signature: bytes
    header: Header

    @classmethod
    def decode(cls, header_bytes: bytes, signature: bytes) -> SignedHeader:
        """Read and verify a header; raises ``RemoteProtocolError`` if its feed did not sign it."""
        header = Header.decode(header_bytes)
        cls.check(header, header_bytes, signature)
        return cls(header_bytes, signature, header)

    @staticmethod
    def check(header: Header, header_bytes: bytes, signature: bytes) -> None:
        """Raise ``RemoteProtocolError`` unless the header's feed signed ``header_bytes``."""
        if not verify(header.feed, pae(HEADER_TYPE, header_bytes), signature):
            raise RemoteProtocolError(
                f"a header of {peer_id_of(header.feed)} carries an invalid signature",
                code="bad-signature",
            )

    @property
    def cid(self) -> CID:
        """The header's name, by which its successor and the whole bundle are known."""
        return CID.of(self.header_bytes)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Consecutive records of one feed under one signature; every instance is valid.

    Made by ``sign_bundle`` (ours), by ``decode`` (from outside, everything is checked) or by
    ``decode_verified`` (from our own journal, where ``decode`` has checked it before).
    """

    header_bytes: bytes
    signature: bytes
    records: tuple[bytes, ...]
    """Each record's bytes, or ``ABSENT``."""
    header: Header
    cid: CID
    """The header's CID; it commits to the records too, so it is the bundle's name."""

    def encode(self) -> bytes:
        """Return the bundle's bytes; ``decode`` accepts them."""
        return encode_bundle(self.header_bytes, self.signature, self.records)

    @classmethod
    def decode(cls, data: bytes) -> Bundle:
        """Read a bundle from outside; raises ``RemoteProtocolError`` unless every rule holds.

        Checked: canonical form, limits, signature, digests, and that each record that is there is
        valid and by the feed's own key. A pure function of ``data``: it may run in any thread.
        """
        return UnverifiedBundle.open(data).verify()

    @classmethod
    def decode_verified(cls, data: bytes) -> Bundle:
        """Read a bundle that ``decode`` accepted before; for our own journal."""
        parts = envelope_parts(data)
        envelope = (
            _Envelope(*parts) if parts else _convert(dagcbor.decode_verified(data), _Envelope)
        )
        header = Header.decode_verified(envelope.header)
        return UnverifiedBundle(envelope, header, CID.of(envelope.header)).trust()

    @property
    def feed(self) -> PeerId:
        """Whose feed this is, as a peer id."""
        return peer_id_of(self.header.feed)

    @property
    def absent(self) -> dict[int, CID]:
        """The records whose bodies are not here, by their sequence."""
        return absent_in(self.header, self.records)

    def with_records(self, records: Iterable[bytes]) -> Bundle:
        """Return this bundle with other bodies, each the one that the header names or absent."""
        return replace(self, records=tuple(records))


@dataclass(frozen=True, slots=True)
class UnverifiedBundle:
    """A well-formed bundle of which nothing is believed yet; its name tells whether we hold it.

    Opening costs a twentieth of verifying, and most bundles that reach an aggregator come twice.
    """

    envelope: _Envelope
    header: Header
    cid: CID

    @classmethod
    def open(cls, data: bytes) -> UnverifiedBundle:
        """Read a bundle's parts; raises ``RemoteProtocolError`` when they have not the right
        form.
        """
        envelope = _open(data)
        return cls(envelope, Header.decode(envelope.header), CID.of(envelope.header))

    def verify(self) -> Bundle:
        """Check signature, digests and every record; raises ``RemoteProtocolError``. Pure and
        slow.
        """
        SignedHeader.check(self.header, self.envelope.header, self.envelope.signature)
        records = self.envelope.records
        digests = tuple(
            sha256(record).digest() if record else named
            for record, named in zip(records, self.header.digests, strict=False)
        )
        if digests != self.header.digests or len(records) != len(digests):
            raise RemoteProtocolError("a bundle's records are not those its header names")
        for record in records:
            if record and check(record) != self.header.feed:
                raise RemoteProtocolError("a bundle holds a record of another author")
        return self.trust()

    @property
    def absent(self) -> dict[int, CID]:
        """The records whose bodies are not here, by their sequence."""
        return absent_in(self.header, self.envelope.records)

    def trust(self) -> Bundle:
        """Return the bundle unchecked, because our own journal checked it before."""
        return Bundle(
            header_bytes=self.envelope.header,
            signature=self.envelope.signature,
            records=self.envelope.records,
            header=self.header,
            cid=self.cid,
        )


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """Where one unbroken run of a feed's bundles starts and ends, and its last header.

    Headers name their predecessors, so the last one commits to every record of the run.
    """

    feed: bytes
    epoch: int
    first_sequence: int
    next_sequence: int
    header: CID


def absent_in(header: Header, records: Sequence[bytes]) -> dict[int, CID]:
    """Return which records of a header are ``ABSENT`` among ``records``, by their sequence."""
    if all(records):
        return {}
    places = zip(header.digests, records, strict=False)
    return {
        sequence: CID.of_digest(digest)
        for sequence, (digest, record) in enumerate(places, header.first_sequence)
        if not record
    }


def encode_bundle(header_bytes: bytes, signature: bytes, records: Sequence[bytes]) -> bytes:
    """Return the bytes of a bundle whose parts are known to be valid."""
    # Not the strict codec: byte strings have one plain encoding.
    encoded = cbor2.dumps([header_bytes, signature, list(records)])
    dagcbor.check_size(encoded, MAX_BUNDLE_BYTES)
    return encoded


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new bundle goes in its feed; ``previous`` is none at the start of an epoch."""

    epoch: int
    first_sequence: int
    previous: CID | None


def sign_bundle(key: SigningKey, place: Place, records: Sequence[bytes], time_us: int) -> Bundle:
    """Sign consecutive encoded records of our own feed.

    The caller journals the result before anyone sees it: a second, different signature over the
    same place would be a fork. Raises ``LocalProtocolError`` for no records, too many or too many
    bytes.
    """
    if not 0 < len(records) <= MAX_BUNDLE_RECORDS or sum(map(len, records)) > _MAX_RECORDS_BYTES:
        raise LocalProtocolError(f"{len(records)} records do not make a bundle")
    header = Header(
        feed=key.public,
        epoch=place.epoch,
        first_sequence=place.first_sequence,
        digests=tuple(sha256(record).digest() for record in records),
        previous=place.previous,
        time_us=time_us,
    )
    header_bytes = header.encode()
    return Bundle(
        header_bytes=header_bytes,
        signature=key.sign(pae(HEADER_TYPE, header_bytes)),
        records=tuple(records),
        header=header,
        cid=CID.of(header_bytes),
    )


# One full cut and one last record of the largest size; the rest is for the header and string heads.
_MAX_RECORDS_BYTES: Final = MAX_BUNDLE_BYTES - MAX_RECORD_BYTES


def conflict(one: SignedHeader | Bundle, other: SignedHeader | Bundle) -> bool:
    """Say whether two headers can't both belong to one unforked feed.

    They fork if their ranges overlap, or if one follows the other but names another predecessor.
    """
    if (one.header.feed, one.header.epoch) != (other.header.feed, other.header.epoch):
        return False
    if one.cid == other.cid:
        return False
    first, second = sorted((one, other), key=lambda signed: signed.header.first_sequence)
    if first.header.next_sequence > second.header.first_sequence:
        return True
    adjacent = first.header.next_sequence == second.header.first_sequence
    return adjacent and second.header.previous != first.cid


@dataclass(frozen=True, slots=True)
class ForkProof:
    """Two headers that one key signed and that can't both be true: see ``conflict``."""

    one: SignedHeader
    other: SignedHeader


def _open(data: bytes) -> _Envelope:
    parts = envelope_parts(data) if len(data) <= MAX_BUNDLE_BYTES else None
    if parts is not None:
        envelope = _Envelope(*parts)
    else:
        envelope = _convert(dagcbor.decode(data, max_bytes=MAX_BUNDLE_BYTES), _Envelope)
    if max(map(len, envelope.records)) > MAX_RECORD_BYTES:
        raise RemoteProtocolError(f"a bundle holds a record over {MAX_RECORD_BYTES} bytes")
    return envelope


def _convert(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"a bundle is invalid: {error}") from error
