"""Server-sent events out of a stream of bytes: the part of the HTML standard that streamed answers
use. Bytes in, events out; however they were cut up, the same events come.
"""

from __future__ import annotations

import re
from typing import Final

from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_UPSTREAM_EVENT_BYTES, MAX_UPSTREAM_STREAM_LINES

_BOM: Final = b"\xef\xbb\xbf"
_END_OF_LINE: Final = re.compile(rb"\r\n?|\n")
_FIELD: Final = b"data"


class EventStream:
    """Finds the data of the events of one stream. An event that the stream's end cuts off is none,
    as the standard has it.
    """

    def __init__(
        self,
        max_event_bytes: int = MAX_UPSTREAM_EVENT_BYTES,
        max_lines: int = MAX_UPSTREAM_STREAM_LINES,
    ) -> None:
        self._max = max_event_bytes
        self._max_lines = self._lines_left = max_lines
        self._line = bytearray()
        self._lines: list[bytes] = []
        self._event_bytes = 0
        self._is_first = True
        self._skips_newline = False
        """A carriage return came last: a newline that follows belongs to it."""

    def feed(self, received: bytes) -> list[str]:
        """Take in bytes and return the data of each event that they complete; raises
        ``RemoteProtocolError`` for one that is too large or no UTF-8, and for a stream of too many
        lines: an empty one costs a byte there and half a microsecond here.
        """
        if not received:
            return []
        start = int(self._skips_newline and received.startswith(b"\n"))
        self._skips_newline = received.endswith(b"\r")
        events: list[str] = []
        for end in _END_OF_LINE.finditer(received, start):
            self._grow(received[start : end.start()])
            line, self._line = bytes(self._line), bytearray()
            start = end.end()
            if (event := self._take(line)) is not None:
                events.append(event)
        self._grow(received[start:])
        return events

    def _grow(self, part: bytes) -> None:
        self._line += part
        if len(self._line) + self._event_bytes > self._max:
            raise RemoteProtocolError(f"an event is larger than {self._max} bytes")

    def _take(self, line: bytes) -> str | None:
        """Take in a line; return the data of the event that it ends."""
        self._lines_left -= 1
        if self._lines_left < 0:
            raise RemoteProtocolError(f"a stream has more than {self._max_lines} lines")
        if self._is_first:
            line, self._is_first = line.removeprefix(_BOM), False
        if line:
            name, _, value = line.partition(b":")
            if name == _FIELD:
                self._lines.append(value.removeprefix(b" "))
                self._event_bytes += len(line)
            return None
        if not self._lines:
            return None
        content, self._lines, self._event_bytes = b"\n".join(self._lines), [], 0
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("an event is not UTF-8") from error
