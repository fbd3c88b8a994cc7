"""The frame format of yamux/1.0.0: a 12-byte header, and after DATA a body."""

from __future__ import annotations

import struct
from typing import Final

PROTOCOL: Final = "/yamux/1.0.0"
VERSION: Final = 0
HEADER: Final = struct.Struct("!BBHII")  # version, kind, flags, stream id, length or value
MAX_STREAM_ID: Final = 0xFFFF_FFFF


class Kind:
    """Frame types; plain integers, for an enum costs a microsecond at each comparison."""

    DATA: Final = 0
    WINDOW: Final = 1
    PING: Final = 2
    GO_AWAY: Final = 3


class Flag:
    """Frame flags."""

    NONE: Final = 0
    SYN: Final = 1
    ACK: Final = 2
    FIN: Final = 4
    RST: Final = 8


class GoAway:
    """Why a side ends the connection, as it tells the other."""

    NORMAL: Final = 0
    PROTOCOL_ERROR: Final = 1


def header(kind: int, flags: int, stream_id: int, value: int) -> bytes:
    """Return one header."""
    return HEADER.pack(VERSION, kind, flags, stream_id, value)
