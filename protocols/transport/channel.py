"""Byte channels under the muxer: a TCP connection with a read buffer, and the Noise encryption on
top of it.

py-libp2p makes two system calls and about ten awaits for each Noise message and gives up a read
after 100 pieces; here one read takes whatever the kernel has and yields all complete messages in
it.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

import trio
from noise.connection import NoiseConnection
from noise.exceptions import NoiseInvalidMessage

from protocols.errors import RemoteProtocolError, TransportError

_READ_BYTES: Final = 64 << 10
_MAC_BYTES: Final = 16
MAX_PLAINTEXT_BYTES: Final = 65_535 - _MAC_BYTES  # of one Noise message, whose length is two bytes


class SecureChannel(Protocol):
    """A connection whose other side is proven; one task may read while another writes."""

    @property
    def has_unread(self) -> bool:
        """Whether ``read`` left bytes behind."""
        ...

    async def receive(self) -> bytes:
        """Return some bytes, at least one; raises ``TransportError`` when there is no more."""
        ...

    async def read(self, n: int) -> bytes:
        """Return 1 to ``n`` bytes."""
        ...

    async def write(self, payload: bytes) -> None:
        """Send everything; cancelled on the way, the channel is unusable."""
        ...

    def write_now(self, payload: bytes) -> bytes:
        """Send what the socket takes at once. What is returned is still to go out, by
        ``write_rest``, before anything else.
        """
        ...

    async def write_rest(self, rest: bytes) -> None:
        """Send what ``write_now`` returned."""
        ...

    async def aclose(self) -> None:
        """Close the connection at once."""
        ...


class RawChannel:
    """A TCP connection; also what py-libp2p's handshakes take for their raw connection."""

    def __init__(self, stream: trio.SocketStream, *, is_initiator: bool) -> None:
        self.is_initiator = is_initiator
        self._stream = stream
        self._socket = stream.socket
        self._buffer = b""

    @property
    def has_unread(self) -> bool:
        """Whether ``read`` left bytes behind."""
        return bool(self._buffer)

    async def receive(self) -> bytes:
        """Return some bytes, at least one; raises ``TransportError`` when there is no more."""
        if self._buffer:
            buffered, self._buffer = self._buffer, b""
            return buffered
        # trio's own receive_some tries before it waits, in vain each time, and yields afterwards.
        received = None
        while received is None:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                received = os.read(self._socket.fileno(), _READ_BYTES)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise _lost() from error
        if not received:
            raise _lost()
        return received

    async def read(self, n: int | None = None) -> bytes:
        """Return 1 to ``n`` bytes."""
        received = await self.receive()
        if n is None:
            return received
        self._buffer = received[n:]
        return received[:n]

    async def write(self, payload: bytes) -> None:
        """Send everything; without a checkpoint if the socket takes it at once."""
        await self.write_rest(self.write_now(payload))

    def write_now(self, payload: bytes) -> bytes:
        """Send what the socket takes at once; return the rest."""
        try:
            return payload[os.write(self._socket.fileno(), payload) :]
        except BlockingIOError:
            return payload
        except OSError as error:
            raise _lost() from error

    async def write_rest(self, rest: bytes) -> None:
        """Send what ``write_now`` returned."""
        while rest:
            try:
                await trio.lowlevel.wait_writable(self._socket)
            except (OSError, trio.ClosedResourceError) as error:
                raise _lost() from error
            rest = self.write_now(rest)

    async def close(self) -> None:
        """Close the connection at once."""
        await trio.aclose_forcefully(self._stream)

    aclose = close

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return nothing: py-libp2p wants it for its logs only."""
        return None


class NoiseChannel:
    """A raw channel after its Noise handshake."""

    def __init__(self, raw: RawChannel, noise: NoiseConnection) -> None:
        self._raw = raw
        self._noise = noise
        self._encrypted = b""
        self._plain = b""

    @property
    def has_unread(self) -> bool:
        """Whether ``read`` left bytes behind."""
        return bool(self._plain)

    async def receive(self) -> bytes:
        """Return some bytes, at least one; raises ``TransportError`` when there is no more."""
        plain, self._plain = self._plain, b""
        while not plain:
            self._encrypted += await self._raw.receive()
            plain = self._decrypt()
        return plain

    def _decrypt(self) -> bytes:
        """Decrypt all complete messages that have arrived."""
        encrypted, offset = self._encrypted, 0
        messages: list[bytes] = []
        while len(encrypted) - offset >= 2:
            end = offset + 2 + int.from_bytes(encrypted[offset : offset + 2], "big")
            if len(encrypted) < end:
                break
            try:
                messages.append(self._noise.decrypt(encrypted[offset + 2 : end]))
            except NoiseInvalidMessage as error:
                raise RemoteProtocolError("a Noise message is not authentic") from error
            offset = end
        self._encrypted = encrypted[offset:]
        return b"".join(messages)

    async def read(self, n: int) -> bytes:
        """Return 1 to ``n`` bytes."""
        received = await self.receive()
        self._plain = received[n:]
        return received[:n]

    async def write(self, payload: bytes) -> None:
        """Encrypt and send everything; cancelled on the way, the channel is unusable."""
        await self.write_rest(self.write_now(payload))

    def write_now(self, payload: bytes) -> bytes:
        """Encrypt everything and send what the socket takes at once; return the rest."""
        return self._raw.write_now(self._encrypt(payload))

    def _encrypt(self, payload: bytes) -> bytes:
        messages: list[bytes] = []
        for offset in range(0, len(payload), MAX_PLAINTEXT_BYTES):
            message = self._noise.encrypt(payload[offset : offset + MAX_PLAINTEXT_BYTES])
            messages += (len(message).to_bytes(2, "big"), message)
        return b"".join(messages)

    async def write_rest(self, rest: bytes) -> None:
        """Send what ``write_now`` returned: it is encrypted."""
        await self._raw.write_rest(rest)

    async def aclose(self) -> None:
        """Close the connection at once."""
        await self._raw.aclose()


def _lost() -> TransportError:
    return TransportError("the connection has ended", code="connection-lost")
