"""Acknowledgements: an aggregator's signed word that it keeps records, so that others may drop
theirs.

Given only after the aggregator's own fsync. They are no records: two aggregators that follow each
other would acknowledge each other's acknowledgements for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, TypeAlias

import msgspec

from protocols import dagcbor
from protocols.errors import RemoteProtocolError
from protocols.keys import SigningKey, pae, verify
from protocols.limits import MAX_ACK_BYTES, MAX_ACK_FEEDS, MAX_EPOCH
from protocols.record import Count, PublicKey

VERSION: Final = 1
ACK_TYPE: Final = "application/vnd.covey.ack+cbor"
"""The DSSE payload type under which acknowledgements are signed."""

Epoch: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=MAX_EPOCH)]
Digest: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class AckEntry(msgspec.Struct, frozen=True, array_like=True):
    """Of this feed's epoch, everything from ``first_sequence`` to below ``next_sequence`` is kept,
    without a hole, and of a fork every branch that the server offered.
    """

    feed: PublicKey
    epoch: Epoch
    next_sequence: Count
    first_sequence: Count = 0
    """Above 0 only if the server had dropped what is before it."""


class AckContent(msgspec.Struct, frozen=True, array_like=True):
    """What an aggregator signs once what it received is on its disk."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    aggregator: PublicKey
    feeds: Annotated[tuple[AckEntry, ...], msgspec.Meta(max_length=MAX_ACK_FEEDS)]
    time_us: Count


@dataclass(frozen=True, slots=True)
class SignedAck:
    """An acknowledgement with its signature, so that it can be shown to anyone later."""

    content: AckContent
    payload: bytes
    signature: bytes
    counted: tuple[int, ...] | None = None
    """Which of its entries count, by number: none are all. Whoever receives one says so."""

    @property
    def feeds(self) -> tuple[AckEntry, ...]:
        """What it promises, as far as that counts."""
        entries = self.content.feeds
        return entries if self.counted is None else tuple(entries[at] for at in self.counted)

    def only(self, holds: Callable[[AckEntry], bool]) -> SignedAck:
        """Return it with only those entries counted of which that holds."""
        kept = tuple(at for at, entry in enumerate(self.content.feeds) if holds(entry))
        return self if len(kept) == len(self.content.feeds) else replace(self, counted=kept)

    @classmethod
    def sign(cls, key: SigningKey, feeds: Sequence[AckEntry], time_us: int) -> SignedAck:
        """Promise to keep what ``feeds`` names."""
        content = AckContent(VERSION, key.public, tuple(feeds), time_us)
        builtins = msgspec.to_builtins(content, builtin_types=(bytes,))
        payload = dagcbor.encode(builtins, max_bytes=MAX_ACK_BYTES)
        return cls(content, payload, key.sign(pae(ACK_TYPE, payload)))

    @classmethod
    def verified(cls, payload: bytes, signature: bytes, aggregator: bytes) -> SignedAck:
        """Read an acknowledgement; raises ``RemoteProtocolError`` unless ``aggregator`` signed
        it.
        """
        signed = cls._read(payload, signature)
        is_own = signed.content.aggregator == aggregator
        if not is_own or not verify(aggregator, pae(ACK_TYPE, payload), signature):
            raise RemoteProtocolError("an acknowledgement is not signed by who sent it")
        return signed

    @classmethod
    def decode(cls, data: bytes) -> SignedAck:
        """Read the body of an ``ACK`` entry of our own journal."""
        payload, signature, *rest = dagcbor.decode_verified(data)
        signed = cls._read(payload, signature)
        return replace(signed, counted=tuple(rest[0])) if rest else signed

    def encode(self) -> bytes:
        """Return the body of an ``ACK`` entry."""
        counted = [] if self.counted is None else [list(self.counted)]
        body = [self.payload, self.signature, *counted]
        return dagcbor.encode(body, max_bytes=2 * MAX_ACK_BYTES)

    @classmethod
    def _read(cls, payload: bytes, signature: bytes) -> SignedAck:
        try:
            value = dagcbor.decode(payload, max_bytes=MAX_ACK_BYTES)
            content = msgspec.convert(value, AckContent, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise RemoteProtocolError(f"an acknowledgement is invalid: {error}") from error
        return cls(content, payload, signature)
