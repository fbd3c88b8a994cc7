"""From a TCP connection to a muxed one whose other side is proven: multistream-select, Noise,
multistream-select, yamux.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as NoiseTransport

from protocols.errors import RemoteProtocolError, TransportError
from protocols.keys import PeerId, SigningKey
from protocols.transport import negotiation
from protocols.transport.channel import NoiseChannel, RawChannel, SecureChannel
from protocols.transport.yamux import PROTOCOL as YAMUX

Secure = Callable[[RawChannel, KeyPair, PeerId | None], Awaitable[tuple[SecureChannel, PeerId]]]


async def secure_with_noise(
    raw: RawChannel, keys: KeyPair, expected: PeerId | None
) -> tuple[SecureChannel, PeerId]:
    """Do the Noise handshake; the peer's key has signed for the id in this very handshake."""
    noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
    # The handshakes use of a raw connection only what a RawChannel has.
    connection: Any = raw
    session: Any
    try:
        if expected is None:
            session = await noise.secure_inbound(connection)
        else:
            session = await noise.secure_outbound(connection, ID.from_base58(expected))
    except (TransportError, RemoteProtocolError):
        raise
    except Exception as error:
        # A stranger's bytes go through protobuf, noiseprotocol and cryptography, each with errors
        # of its own.
        raise RemoteProtocolError(
            f"the Noise handshake failed: {error or type(error).__name__}", code="handshake-failed"
        ) from error
    return NoiseChannel(raw, session.conn.noise_state), session.get_remote_peer().to_base58()


# Noise and nothing else. py-libp2p's default set also accepts /plaintext/2.0.0, where anyone may
# claim to be anyone.
SECURITY: Final[dict[str, Secure]] = {"/noise": secure_with_noise}


def libp2p_keys(key: SigningKey) -> KeyPair:
    """Return py-libp2p's form of our key."""
    return create_new_key_pair(key.seed)


async def upgrade_outbound(raw: RawChannel, keys: KeyPair, expected: PeerId) -> SecureChannel:
    """Secure a connection that we opened; raises unless the other side is exactly ``expected``."""
    name = next(iter(SECURITY))
    if not await negotiation.propose(raw, name):
        raise TransportError(f"the peer does not offer {name}", code="security-refused")
    channel, peer_id = await SECURITY[name](raw, keys, expected)
    if peer_id != expected:
        raise TransportError(f"it is {peer_id}", code="another-peer")
    if not await negotiation.propose(channel, YAMUX):
        raise TransportError(f"the peer does not offer {YAMUX}", code="muxer-refused")
    return channel


async def upgrade_inbound(raw: RawChannel, keys: KeyPair) -> tuple[SecureChannel, PeerId]:
    """Secure a connection that the other side opened; return it and who that is."""

    async def is_security(name: str) -> bool:
        return name in SECURITY

    async def is_muxer(name: str) -> bool:
        return name == YAMUX

    name = await negotiation.answer(raw, is_security)
    channel, peer_id = await SECURITY[name](raw, keys, None)
    if peer_id == ID.from_pubkey(keys.public_key).to_base58():
        raise RemoteProtocolError("the peer claims our own identity")
    await negotiation.answer(channel, is_muxer)
    return channel, peer_id
