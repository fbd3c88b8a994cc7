"""Framing and the message codec: ``u32 length | CBOR array of messages``.

Messages are frozen msgspec structs, positional (``array_like``) and told apart by an integer tag in
first place. A frame holds as many messages as were waiting when the writer became free. Decoding
bounds size, depth and count before it builds anything, and raises ``RemoteProtocolError`` on every
input that is not exactly a list of known messages. Unknown trailing fields are ignored, so fields
are append-only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar, cast

import cbor2
import msgspec

from protocols.dagcbor import REFUSED_TAGS
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import (
    MAX_FRAME_BYTES,
    MAX_FRAME_ITEMS,
    MAX_MESSAGE_DEPTH,
    MAX_MESSAGE_MAP_ENTRIES,
    MAX_MESSAGES_PER_FRAME,
)

M = TypeVar("M")

LENGTH = struct.Struct("!I")
SCAN_FROM_BYTES: Final = 64 << 10
"""What is smaller can hold too little to hurt: 5 MB of empty lists. Keys are text or bytes, whose
hashes nobody can make collide.
"""
_STRINGS: Final = (2, 3)
_MAP: Final = 5


class MessageCodec(Generic[M]):
    """Encodes and decodes the messages of one protocol.

    ``messages`` is the union of its message structs. Both methods are pure; ``decode`` raises
    ``RemoteProtocolError`` and ``encode`` raises ``LocalProtocolError`` when the frame would be
    larger than ``MAX_FRAME_BYTES``.
    """

    def __init__(self, messages: Any) -> None:
        self._type = list[messages]

    def encode(self, messages: Iterable[M]) -> bytes:
        """Return the payload of one frame that holds ``messages`` in order."""
        payload = cbor2.dumps([msgspec.to_builtins(m, builtin_types=(bytes,)) for m in messages])
        if len(payload) > MAX_FRAME_BYTES:
            raise LocalProtocolError(
                f"a frame of {len(payload)} bytes is over the limit of {MAX_FRAME_BYTES}",
                got=len(payload),
            )
        return payload

    def decode(self, payload: bytes) -> list[M]:
        """Return the messages of one frame's payload."""
        values = decode_bounded(payload)
        if not isinstance(values, list) or len(cast("list[Any]", values)) > MAX_MESSAGES_PER_FRAME:
            raise RemoteProtocolError(
                f"a frame is not a list of at most {MAX_MESSAGES_PER_FRAME} messages"
            )
        try:
            return cast("list[M]", msgspec.convert(values, type=self._type, builtin_types=(bytes,)))
        except msgspec.ValidationError as error:
            raise RemoteProtocolError(f"a frame holds an invalid message: {error}") from error


def decode_bounded(payload: bytes) -> Any:
    """Decode CBOR from a peer to builtins: no tags, no indefinite lengths, no duplicate keys, and
    size, depth and number of items bounded before anything is built.
    """
    if len(payload) > MAX_FRAME_BYTES:
        raise RemoteProtocolError(
            f"a frame of {len(payload)} bytes is over the limit of {MAX_FRAME_BYTES}",
            got=len(payload),
        )
    if len(payload) > SCAN_FROM_BYTES:
        _bound_items(payload)
    try:
        return cbor2.loads(
            payload,
            semantic_decoders=REFUSED_TAGS,
            max_depth=MAX_MESSAGE_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise RemoteProtocolError(f"a frame is not valid CBOR: {type(error).__name__}") from error


def _bound_items(payload: bytes) -> None:
    """Walk the heads of all items without building any; raise ``RemoteProtocolError`` for too many.

    Small items cost up to 73 bytes of memory a byte, and the keys of a large map can collide.
    """
    at = items = 0
    while at < len(payload):
        items += 1
        if items > MAX_FRAME_ITEMS:
            raise RemoteProtocolError(f"a frame holds more than {MAX_FRAME_ITEMS} items")
        major, short = payload[at] >> 5, payload[at] & 31
        argument_bytes = 1 << (short - 24) if 24 <= short <= 27 else 0
        at += 1 + argument_bytes
        argument = int.from_bytes(payload[at - argument_bytes : at], "big") if short > 23 else short
        if major in _STRINGS:
            at += argument
        elif major == _MAP and argument > MAX_MESSAGE_MAP_ENTRIES:
            raise RemoteProtocolError(f"a message's map has {argument} entries", got=argument)
