"""A ticket: the text that one person hands another so that their machine may join a mesh, once.

``covey1`` and base32 of the fields and a checksum: no upper or lower case to lose, one double click
selects it, and a mistyped one says so before anything is dialled. The secret in it is a bearer
secret: the admitter keeps only its digest.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocols import dagcbor
from protocols.errors import RemoteProtocolError
from protocols.keys import PeerId, peer_id_of
from protocols.limits import MAX_TICKET_CHARS
from protocols.membership import (
    TOLERANCE_US,
    Addresses,
    Key,
    Roles,
    TimeUs,
    VersionOne,
    check_roles,
    decode_fields,
    to_fields,
)

PREFIX: Final = "covey1"
CHECKSUM_BYTES: Final = 4
SECRET_BYTES: Final = 16

Secret = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]


class Ticket(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Leave to join ``mesh`` at one admitter, once, with these roles, until it expires."""

    version: VersionOne
    mesh: Key
    admitter_key: Key
    addresses: Addresses
    secret: Secret
    roles: Roles
    expires_us: TimeUs

    @property
    def admitter(self) -> PeerId:
        """The peer that must be dialled, and that the secure channel then proves."""
        return peer_id_of(self.admitter_key)

    def is_expired(self, now_us: int) -> bool:
        """Whether even an admitter whose clock is 10 minutes behind ours would refuse it."""
        return now_us > self.expires_us + TOLERANCE_US

    def __str__(self) -> str:
        body = dagcbor.encode(to_fields(self))
        text = base64.b32encode(body + _checksum(body)).decode("ascii")
        return PREFIX + text.rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Return the ticket in ``text``, spaces and line breaks ignored; raise
        ``RemoteProtocolError`` with code ``ticket-malformed``.
        """
        compact = "".join(text.split()).lower()
        if not compact.startswith(PREFIX) or len(compact) > MAX_TICKET_CHARS:
            raise _malformed(f"a ticket starts with {PREFIX}")
        content = _decode_base32(compact.removeprefix(PREFIX))
        body, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        if checksum != _checksum(body):
            raise _malformed("its checksum does not fit: a character is missing or mistyped")
        try:
            ticket = decode_fields(cls, body, MAX_TICKET_CHARS)
            check_roles(ticket.roles)
        except RemoteProtocolError as error:
            raise _malformed("it is of a version that this covey does not know") from error
        if str(ticket) != compact:  # base32 leaves bits of its last character unused
            raise _malformed("its last character is mistyped")
        return ticket


def digest_of(secret: bytes) -> bytes:
    """What an admitter keeps of a ticket's secret."""
    return hashlib.sha256(secret).digest()


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + body).digest()[:CHECKSUM_BYTES]


def _decode_base32(text: str) -> bytes:
    padding = "=" * (-len(text) % 8)
    try:
        return base64.b32decode(text + padding, casefold=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed("a character in it is mistyped or missing") from error


def _malformed(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"this is not a valid ticket: {why}",
        code="ticket-malformed",
        hint="copy the whole line that `covey ticket` printed",
    )
