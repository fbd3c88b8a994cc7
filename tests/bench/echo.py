"""A child that sends back what it gets: over raw TCP, and over covey's transport."""

from __future__ import annotations

import json
import os

import trio

from protocols.keys import SigningKey
from protocols.transport import Stream, open_transport

PROTOCOL = "/bench/echo/1"
KEY = SigningKey.from_seed(b"e" * 32)


async def echo(stream: trio.SocketStream) -> None:
    async for received in stream:
        await stream.send_all(received)


async def echo_frames(stream: Stream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


async def main() -> None:
    transport = open_transport(KEY, ["/ip4/127.0.0.1/tcp/0"])
    transport.serve(PROTOCOL, echo_frames, before_hello=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        port = listener.socket.getsockname()[1]
        print(json.dumps({"port": port, "addresses": transport.addresses}), flush=True)
        stdin = trio.lowlevel.FdStream(os.dup(0))
        async with stdin:
            async for _ in stdin:
                pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
