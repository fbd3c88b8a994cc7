"""What covey asks of a network, and nothing more: peers that are proven to be who they are, streams
of frames, and hints by gossip.

Two implementations keep this contract: libp2p here, and one in memory for tests. One contract test
runs on both. Importing this module does not import libp2p; calling ``open_transport`` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from protocols.keys import PeerId, SigningKey

StreamHandler = Callable[["Stream"], Awaitable[None]]
GossipValidator = Callable[[PeerId, bytes], bool]
GossipHandler = Callable[[PeerId, bytes], None]
ConnectionCallback = Callable[[PeerId, bool], None]


class Stream(Protocol):
    """Frames in both directions with one peer, in order, with an explicit end in each direction.

    One task may send while another receives. A stalled receiver stalls only its own stream's
    sender.
    """

    @property
    def peer_id(self) -> PeerId:
        """The other side, as the secure channel proved it; never what a message claims."""
        ...

    async def send(self, frame: bytes) -> None:
        """Send one frame of 1 to ``MAX_FRAME_BYTES`` bytes, whole and in order.

        Small frames of other streams pass between the 64 KiB pieces of a large one. Cancelled
        between pieces, the stream is reset, for half a frame is no frame; the connection and its
        other streams are never harmed. Raises ``StreamLostError`` when the stream is gone or the
        peer takes nothing for ``SEND_STALL_S``, ``LocalProtocolError`` on a bad size or after
        ``finish``.
        """
        ...

    def send_now(self, frame: bytes) -> bool:
        """Send one frame at once if nothing is in its way, without a turn of the loop; False, and
        nothing done, otherwise: ``send`` it then. For who sends little at a time; a loop over it
        would let nobody else run.
        """
        ...

    async def receive(self) -> bytes | None:
        """Return the next frame, or None after the peer's explicit end, whose digest covers every
        frame before it.

        Waits as long as the connection is alive; bound it with ``trio.fail_after``. Cancelling
        loses nothing. Raises ``StreamLostError`` when the stream ends in any other way and
        ``RemoteProtocolError`` on bytes that break the framing.
        """
        ...

    async def finish(self) -> None:
        """Say that no more frames follow; receiving stays possible, and again is harmless."""
        ...

    async def aclose(self) -> None:
        """Release the stream: quietly if both sides finished, else by a reset, so that nobody takes
        a part for the whole.
        """
        ...

    async def reset(self) -> None:
        """End both directions at once; the peer gets ``StreamLostError`` after the frames that
        reached it.
        """
        ...


class Transport(Protocol):
    """A peer's place in the network. Everything below is called from the trio thread.

    Until ``admit(peer)``, a peer is served only protocols registered with ``before_hello``, and
    gossip neither accepts from it nor sends to it. Admission ends when its last connection does.
    """

    @property
    def peer_id(self) -> PeerId:
        """Our own identity."""
        ...

    @property
    def addresses(self) -> list[str]:
        """The multiaddrs that we listen on, with real ports once ``run`` has started."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled; ``started()`` when listening. Closes every connection
        and socket on the way out.

        Runs once. Raises ``TransportError`` (code ``listen-failed``) when an address can't be
        bound.
        """
        ...

    async def dial(self, peer_id: PeerId, addresses: list[str]) -> None:
        """Connect to exactly that peer: every address, one at a time. Does nothing when connected
        already.

        Raises ``PeerUnreachableError``, whose ``attempts`` detail tells for each address why not.
        """
        ...

    async def open_stream(self, peer_id: PeerId, protocol: str) -> Stream:
        """Open a stream on a present connection; the caller closes it.

        Raises ``PeerUnreachableError`` without a connection, ``TransportError`` with code
        ``protocol-refused`` when the peer does not serve that protocol to us, ``StreamLostError``
        when the connection breaks or the peer does not answer in time.
        """
        ...

    def serve(self, protocol: str, handler: StreamHandler, *, before_hello: bool = False) -> None:
        """Call ``handler`` in a task of its own for every stream that a peer opens; the stream is
        closed when it returns.

        An exception of the handler resets that stream, is logged, and harms nothing else.
        """
        ...

    def admit(self, peer_id: PeerId) -> None:
        """Serve all protocols and gossip to this connected peer until its last connection ends; no
        effect when it is not connected.
        """
        ...

    def is_admitted(self, peer_id: PeerId) -> bool:
        """Whether ``admit`` was called for this peer since it connected."""
        ...

    def subscribe(self, topic: str, validator: GossipValidator, handler: GossipHandler) -> None:
        """Take part in a topic; call before ``run``.

        Both get the peer that handed us the message, which need not be its author: payloads carry
        their own signatures. A message whose validator returns False or raises is dropped and not
        passed on. ``handler`` is not called for our own messages.
        """
        ...

    async def publish(self, topic: str, payload: bytes) -> bool:
        """Hand a hint to gossip: it may be lost, doubled or late. False when our own limiter or the
        size cap drops it.
        """
        ...

    def connected(self) -> set[PeerId]:
        """The peers with at least one live connection."""
        ...

    def on_connection(self, callback: ConnectionCallback) -> None:
        """Call ``callback(peer, is_up)`` when a peer's first connection is there and when its last
        one is gone; it must not block.
        """
        ...

    async def disconnect(self, peer_id: PeerId) -> None:
        """Close every connection with that peer."""
        ...


def open_transport(key: SigningKey, listen: list[str]) -> Transport:
    """Return the libp2p transport of this identity, listening on these multiaddrs once it runs (TCP
    only, port 0 means any).
    """
    from protocols.transport.host import Libp2pTransport

    return Libp2pTransport(key, listen)
