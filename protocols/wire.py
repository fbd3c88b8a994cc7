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
from typing import Any, Generic, TypeVar, cast

import cbor2
import msgspec

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import MAX_FRAME_BYTES, MAX_MESSAGE_DEPTH, MAX_MESSAGES_PER_FRAME

M = TypeVar("M")

LENGTH = struct.Struct("!I")


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
    """Decode CBOR from a peer to builtins: no tags, no indefinite lengths, no duplicate keys,
    bounded size and depth.
    """
    if len(payload) > MAX_FRAME_BYTES:
        raise RemoteProtocolError(
            f"a frame of {len(payload)} bytes is over the limit of {MAX_FRAME_BYTES}",
            got=len(payload),
        )
    try:
        return cbor2.loads(
            payload,
            max_depth=MAX_MESSAGE_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise RemoteProtocolError(f"a frame is not valid CBOR: {type(error).__name__}") from error
