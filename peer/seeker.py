"""The asking side of ``Seek``: one stream on which we ask a peer for records by their names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import trio

from peer.feed_server import drain, send
from peer.feeds import Feeds
from protocols.errors import Refused, RemoteProtocolError, StreamLostError
from protocols.feed import Bundle, UnverifiedBundle
from protocols.keys import PeerId
from protocols.limits import PULL_SILENCE_S
from protocols.sought import answers
from protocols.sync import (
    PROTOCOL,
    VERSION,
    BundleMessage,
    Refuse,
    Seek,
    Side,
    State,
    unpack,
)
from protocols.transport import Stream, Transport


class Seeker:
    """One question to one peer."""

    def __init__(self, transport: Transport, feeds: Feeds, peer_id: PeerId) -> None:
        self._transport = transport
        self._feeds = feeds
        self._peer_id = peer_id
        self._side = Side.seeker()

    async def run(self, digests: Sequence[bytes]) -> list[Bundle]:
        """Keep the bundles that hold some of these records, or makers of these things; return them
        once they are on the disk.

        Only bundles that hold what was asked for are kept, and no more than were asked for. Raises
        ``Refused``, ``RemoteProtocolError``, ``TransportError``, ``JournalFullError`` or
        ``trio.TooSlowError``.
        """
        stream = await self._transport.open_stream(self._peer_id, PROTOCOL)
        try:
            await send(stream, [Seek(VERSION, tuple(digests))])
            found = await self._receive(stream, frozenset(digests))
            with suppress(StreamLostError):  # what was asked for is here
                await drain(stream)
            return found
        finally:
            await stream.aclose()

    async def _receive(self, stream: Stream, sought: frozenset[bytes]) -> list[Bundle]:
        arrived: list[Bundle] = []
        while self._side.state is State.SEEKING:
            with trio.fail_after(PULL_SILENCE_S):
                payload = await stream.receive()
            if payload is None:
                raise RemoteProtocolError("a peer ended before it had answered")
            for message in self._side.receive(payload):
                if isinstance(message, Refuse):
                    raise Refused(message.reason, code=message.code)
                if isinstance(message, BundleMessage):
                    if len(arrived) == len(sought):
                        raise RemoteProtocolError("a peer sends more bundles than were asked for")
                    arrived.append(await self._keep(message, sought))
        return arrived

    async def _keep(self, message: BundleMessage, sought: frozenset[bytes]) -> Bundle:
        """Verify and keep one bundle; one at a time, so that a frame expands to 256 KiB at most.

        One that is held is verified all the same: only its header is known to be the same.
        """
        bundle = UnverifiedBundle.open(unpack(message)).verify()
        await trio.lowlevel.checkpoint()  # a millisecond or two; others wait for this thread
        if not answers(bundle, sought):
            raise RemoteProtocolError("a peer sends a bundle that nobody asked for")
        await self._feeds.add(bundle)
        return bundle
