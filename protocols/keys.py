"""Ed25519 keys, peer ids, and the one way in which covey signs: DSSE's pre-authentication encoding.

A peer is its libp2p identity: the peer id is the identity multihash of the protobuf-encoded Ed25519
public key in base58btc, so key and id can be computed from each other and no lookup is ever needed.
Everything we sign is ``sign(pae(type, payload))``: the type keeps a signature on one kind of
statement from being shown as a signature on another.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from protocols.base58 import from_base58, to_base58
from protocols.errors import LocalProtocolError, RemoteProtocolError

PeerId = str
"""A libp2p peer id as text, ``12D3KooW…``."""

SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

# Identity multihash (code 0, length 36) of the protobuf PublicKey{Type: Ed25519, Data: 32 bytes},
# as the libp2p specification has it.
_PEER_ID_PREFIX: Final = b"\x00\x24\x08\x01\x12\x20"
_PEER_ID_CHARS: Final = 52


class SigningKey:
    """An Ed25519 key pair; ``seed`` is the secret and everything else follows from it."""

    __slots__ = ("_secret", "peer_id", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise LocalProtocolError(
                f"a key seed is {SEED_BYTES} bytes, not {len(seed)}", got=len(seed)
            )
        self.seed = seed
        self.public, self._secret = bindings.crypto_sign_seed_keypair(seed)
        self.peer_id: PeerId = peer_id_of(self.public)

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """Return the key that ``seed`` (32 secret bytes) determines."""
        return cls(seed)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``; callers pass ``pae(type, payload)``."""
        return bindings.crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        # The secret must not reach a log by way of a debugger or an f-string.
        return f"SigningKey({self.peer_id})"


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether ``signature`` is ``public``'s over ``message``; never raises on what a peer
    sent.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + message, public)
    except (CryptoError, ValueError):
        return False
    return True


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding of ``payload``, which is what gets signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


@lru_cache(maxsize=4_096)
def peer_id_of(public: bytes) -> PeerId:
    """Return the peer id of a 32-byte Ed25519 public key."""
    if len(public) != PUBLIC_BYTES:
        raise RemoteProtocolError(
            f"an Ed25519 public key is {PUBLIC_BYTES} bytes, not {len(public)}", got=len(public)
        )
    return to_base58(_PEER_ID_PREFIX + public)


@lru_cache(maxsize=4_096)
def public_key_of(peer_id: PeerId) -> bytes:
    """Return the public key inside ``peer_id``; raises ``RemoteProtocolError`` if it is no
    Ed25519 peer id.
    """
    raw = _bytes_of(peer_id)
    if not raw.startswith(_PEER_ID_PREFIX) or len(raw) != len(_PEER_ID_PREFIX) + PUBLIC_BYTES:
        raise RemoteProtocolError(
            f"{peer_id[:80]!r} is not the peer id of an Ed25519 key",
            hint="peer ids look like 12D3KooW… and are printed by `covey id`",
        )
    return raw[len(_PEER_ID_PREFIX) :]


def is_peer_id(text: str) -> bool:
    """Say whether a text could be the id of a peer."""
    try:
        public_key_of(text)
    except RemoteProtocolError:
        return False
    return True


def _bytes_of(peer_id: PeerId) -> bytes:
    # The length is checked first: conversion is quadratic, and our ids have exactly one length.
    try:
        return from_base58(peer_id) if len(peer_id) == _PEER_ID_CHARS else b""
    except ValueError:
        return b""
