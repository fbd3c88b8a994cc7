"""The runner's end of its pipes to the daemon.

Standard input and output are moved to private descriptors first: what a library prints lands on
stderr, not between two frames. A thread reads all the time, so that a cancellation is seen between
batches and the daemon's death at once.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable
from typing import Final

from node.runner.messages import (
    FROM_RUNNER,
    TO_RUNNER,
    FrameBuffer,
    FromRunner,
    Load,
    ToRunner,
    frames,
)
from protocols.errors import RemoteProtocolError
from protocols.wire import LENGTH

READ_BYTES: Final = 1 << 18
BROKEN_STATUS: Final = 3  # exit status after bytes that are no message of the daemon


class Channel:
    """Messages from and to the daemon. ``receive`` and ``send`` belong to one thread."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._inbox: queue.SimpleQueue[ToRunner] = queue.SimpleQueue()

    @classmethod
    def private(cls) -> Channel:
        """Take over stdin and stdout: both are replaced for everyone else in this process."""
        channel = cls(os.dup(0), os.dup(1))
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        os.dup2(2, 1)
        return channel

    def first(self) -> Load:
        """Return the first message, which has a frame of its own: no byte after it is read. Comes
        before ``start``, without a thread.
        """
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        (load,) = TO_RUNNER.decode(self._exactly(length))
        assert isinstance(load, Load)
        return load

    def _exactly(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            more = os.read(self._source, size - len(received))
            if not more:
                os._exit(0)  # the daemon is gone
            received += more
        return received

    def start(self) -> None:
        """Begin to read everything that comes after ``first``."""
        threading.Thread(target=self._read, name="daemon's messages", daemon=True).start()

    def receive(self, *, wait: bool) -> list[ToRunner]:
        """Return the messages that came; with ``wait``, at least one."""
        messages = [self._inbox.get()] if wait else []
        while not self._inbox.empty():
            messages.append(self._inbox.get_nowait())
        return messages

    def send(self, messages: Iterable[FromRunner]) -> None:
        """Write messages, in as few frames as fit; ends the process when the daemon is gone."""
        for frame in frames(FROM_RUNNER, messages):
            rest = memoryview(frame)
            while rest:
                try:
                    rest = rest[os.write(self._target, rest) :]
                except BrokenPipeError:
                    os._exit(0)

    def _read(self) -> None:
        buffer = FrameBuffer()
        try:
            while received := os.read(self._source, READ_BYTES):
                for payload in buffer.feed(received):
                    for message in TO_RUNNER.decode(payload):
                        self._inbox.put(message)
        except RemoteProtocolError as error:
            os.write(2, f"the daemon's bytes make no sense: {error}\n".encode())
            os._exit(BROKEN_STATUS)
        # the daemon closed our stdin or died: nobody is left to compute for, and a batch must not
        # delay the end
        os._exit(0)
