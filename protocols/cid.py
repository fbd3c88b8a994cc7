"""Content identifiers: the name of bytes is the SHA-256 of them, so a name can be checked by
whoever holds the bytes.

Two profiles exist. ``CID`` is what covey makes and accepts in its own records: version 1, raw or
dag-cbor, sha2-256, so always 36 bytes. ``AnyCID`` is any well-formed CID of the IPLD world and only
exists so that public fixtures and foreign blocks can be read.
"""

from __future__ import annotations

import base64
import binascii
import re
from hashlib import sha256
from typing import Final, Self

from protocols.base58 import from_base58, to_base58
from protocols.errors import LocalProtocolError, RemoteProtocolError

RAW: Final = 0x55
DAG_CBOR: Final = 0x71

CID_BYTES: Final = 36
DIGEST_BYTES: Final = 32

PREFIXES: Final = {codec: bytes((1, codec, 0x12, 0x20)) for codec in (RAW, DAG_CBOR)}
_KNOWN_PREFIXES: Final = frozenset(PREFIXES.values())
_TEXT_CHARS: Final = 59  # "b" and 58 base32 characters
_MAX_TEXT_CHARS: Final = 128  # of others' CIDs: of the longest digests in use
_CID_V0_PREFIX: Final = b"\x12\x20"


class AnyCID(bytes):
    """The binary form of some CID; making one checks nothing, so only codecs that have checked
    do it.
    """

    __slots__ = ()

    def __str__(self) -> str:
        """Return its text form: base58btc for version 0, else base32 behind the ``b`` that says
        so.
        """
        if self.startswith(_CID_V0_PREFIX):
            return to_base58(self)
        return "b" + base64.b32encode(self).decode().rstrip("=").lower()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


class CID(AnyCID):
    """A CID of covey's own profile; constructing one from other bytes raises
    ``RemoteProtocolError``.
    """

    __slots__ = ()

    def __new__(cls, raw: bytes) -> Self:
        """Wrap the 36 binary bytes of a CID."""
        if not is_strict(raw):
            raise RemoteProtocolError(
                f"{bytes(raw[:40]).hex()} is not a CIDv1 of raw or dag-cbor under sha2-256"
            )
        return bytes.__new__(cls, raw)

    @classmethod
    def of(cls, block: bytes, codec: int = DAG_CBOR) -> Self:
        """Return the name of ``block``."""
        return cls.of_digest(sha256(block).digest(), codec)

    @classmethod
    def of_digest(cls, digest: bytes, codec: int = DAG_CBOR) -> Self:
        """Return the name of the block whose SHA-256 is ``digest``."""
        if len(digest) != DIGEST_BYTES or codec not in PREFIXES:
            raise LocalProtocolError(f"no CID of codec {codec:#x} and {len(digest)} digest bytes")
        return bytes.__new__(cls, PREFIXES[codec] + digest)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form, lower-case base32 with its ``b``; each CID has exactly one."""
        if len(text) == _TEXT_CHARS and text[0] == "b" and text.islower():
            try:
                cid = cls(base64.b32decode(text[1:].upper() + "======"))
            except (binascii.Error, ValueError):
                pass
            else:
                if str(cid) == text:  # the last character has spare bits that must be zero
                    return cid
        raise RemoteProtocolError(
            f"{text[:80]!r} is not a CID", hint="CIDs have 59 characters and start with b"
        )

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the block."""
        return self[4:]

    @property
    def codec(self) -> int:
        """``RAW`` or ``DAG_CBOR``: how the block is encoded."""
        return self[1]


def parse_any(text: str) -> AnyCID | None:
    """Read any CID in base32 or base58, as others write them; none for what is no CID."""
    if len(text) > _MAX_TEXT_CHARS:
        return None
    try:
        if text[:1] in ("b", "B") and text in (text.lower(), text.upper()):
            padding = "=" * (-len(text[1:]) % 8)
            raw = base64.b32decode(text[1:].upper() + padding)
        else:
            raw = from_base58(text.removeprefix("z"))
    except (binascii.Error, ValueError):
        return None
    is_v0 = raw.startswith(_CID_V0_PREFIX)
    return AnyCID(raw) if is_well_formed(raw) and is_v0 == text.startswith("Qm") else None


def commitment(salt: bytes, content: bytes) -> CID:
    """Return the CID shown instead of private ``content``; without ``salt`` a guess of the
    content can't be confirmed.
    """
    return CID.of(salt + content, RAW)


def is_strict(raw: bytes) -> bool:
    """Say whether ``raw`` is the binary form of a CID of covey's own profile."""
    return len(raw) == CID_BYTES and raw[:4] in _KNOWN_PREFIXES


def is_well_formed(raw: bytes) -> bool:
    """Say whether ``raw`` is the binary form of any CIDv0 or CIDv1, whatever its codec and hash."""
    if raw[:2] == _CID_V0_PREFIX:
        return len(raw) == len(_CID_V0_PREFIX) + DIGEST_BYTES
    head = _CID_V1_HEAD.match(raw)
    if head is None:
        return False
    size = raw[head.end() - 1]
    if head.end() - head.start("size") > 1:
        size = sum((byte & 0x7F) << (7 * index) for index, byte in enumerate(head["size"]))
    return head.end() + size == len(raw)


_VARINT: Final = rb"(?:[\x80-\xff]{1,8}[\x01-\x7f]|[\x00-\x7f])"  # minimal, within 63 bits
_CID_V1_HEAD: Final = re.compile(
    rb"\x01%b%b(?P<size>%b)" % (_VARINT, _VARINT, _VARINT)  # version, codec, hash, digest size
)
