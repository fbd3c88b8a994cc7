"""A peer in a process of its own, which a test may stop with a signal: prints its address, then
serves.
"""

from __future__ import annotations

import sys

import trio

from tests.support.transports import echo, key, libp2p


async def main() -> None:
    transport = libp2p(key(int(sys.argv[1])))
    transport.serve("/test/echo/1", echo)
    transport.on_connection(lambda peer, is_up: is_up and transport.admit(peer))
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        sys.stdout.write(transport.addresses[0] + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
