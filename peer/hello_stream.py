"""The stream of one hello: a message a frame, and no wait on the other side without an end."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import trio

from protocols.errors import RemoteProtocolError, StreamLostError, TransportError
from protocols.hello import CODEC, HelloMessage, HelloRefusal
from protocols.limits import HELLO_END_TIMEOUT_S, HELLO_TIMEOUT_S
from protocols.transport import Stream

log = logging.getLogger(__name__)

REFUSAL_READ_S: Final = 2.0  # for the dialer to read why before the connection closes


async def send(stream: Stream, message: HelloMessage) -> None:
    """Send one message as a frame of its own."""
    with _within(HELLO_TIMEOUT_S):
        await stream.send(CODEC.encode([message]))


async def receive(stream: Stream) -> HelloMessage:
    """Return the next message; raise ``RemoteProtocolError`` on anything else."""
    with _within(HELLO_TIMEOUT_S):
        frame = await stream.receive()
    messages = CODEC.decode(frame) if frame is not None else []
    if len(messages) != 1:
        raise RemoteProtocolError(
            f"a hello frame with {len(messages)} messages", code="hello-order"
        )
    return messages[0]


async def expect_end(stream: Stream) -> None:
    """Wait for the other side's end."""
    with _within(HELLO_END_TIMEOUT_S):
        frame = await stream.receive()
    if frame is not None:
        raise RemoteProtocolError("a hello frame after the last one", code="hello-order")


async def refuse(stream: Stream, refusal: HelloRefusal) -> None:
    """Tell the dialer why, and give it time to read it."""
    try:
        with trio.move_on_after(REFUSAL_READ_S):
            await stream.send(CODEC.encode([refusal]))
            await stream.finish()
            await stream.receive()
    except (TransportError, RemoteProtocolError):
        log.debug("refusal not read", extra={"peer": stream.peer_id})


def unexpected(message: HelloMessage) -> RemoteProtocolError:
    """Return the error that a message out of order is."""
    return RemoteProtocolError(f"{type(message).__name__} is out of order here", code="hello-order")


@contextmanager
def _within(seconds: float) -> Generator[None]:
    """Bound a wait on the other side; silence is a lost stream."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as error:
        raise StreamLostError(f"no answer in {seconds:g} s", code="hello-timeout") from error
