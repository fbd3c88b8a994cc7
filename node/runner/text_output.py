"""Texts as the output of a job, piece by piece, so that they can be read while they are written.

A sequence of DAG-CBOR lists ``[index, text, finish_reason, tokens]``, one after the other. Each
continues the text of item ``index`` by ``text``, whole characters that took ``tokens`` tokens; the
last of an item has a ``finish_reason``, the others null. Items come in their order, and one begins
when the one before it has ended.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Annotated, Literal

import cbor2
import msgspec

from protocols.errors import RemoteProtocolError
from protocols.limits import (
    MAX_GENERATE_ITEMS,
    MAX_GENERATE_PIECE_BYTES,
    MAX_NEW_TOKENS,
    PARTS_A_TOKEN,
)


def piece(index: int, text: str, reason: str | None, tokens: int) -> bytes:
    """Return the next part of an output."""
    return cbor2.dumps([index, text, reason, tokens])


class Piece(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One part of an output, decoded."""

    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_GENERATE_ITEMS)]
    text: str
    finish_reason: Literal["stop", "length"] | None
    tokens: Annotated[int, msgspec.Meta(ge=0, le=MAX_NEW_TOKENS)]


class Order:
    """What may come next in an output: parts in the order of their items, that say something, and
    no more of them and of their tokens than ``max_tokens`` tokens of ``items`` items can be.
    """

    def __init__(self, items: int = MAX_GENERATE_ITEMS, max_tokens: int = MAX_NEW_TOKENS) -> None:
        self.index = 0
        """The item whose turn it is."""
        self.is_within = False
        """Whether it has begun."""
        self._items = items
        self._most_tokens = max_tokens
        self._most_parts = most_parts(max_tokens)
        self._parts = self._tokens = 0

    def take(self, part: Piece) -> Piece:
        """Return the next part; raises ``RemoteProtocolError`` if it can't be the next."""
        if part.index != self.index or part.index >= self._items:
            raise RemoteProtocolError(f"an output of generate has item {part.index} out of turn")
        self._parts, self._tokens = self._parts + 1, self._tokens + part.tokens
        self.is_within = part.finish_reason is None
        if self._parts > self._most_parts or self._tokens > self._most_tokens:
            raise RemoteProtocolError(
                f"an output of generate has more of item {part.index} than was asked for"
            )
        if self.is_within and not part.text:
            raise RemoteProtocolError("an output of generate has a part that says nothing")
        if not self.is_within:
            self.index, self._parts, self._tokens = self.index + 1, 0, 0
        return part


def most_parts(max_tokens: int) -> int:
    """Return of how many parts one item's text may be: the last one may be its end alone."""
    return PARTS_A_TOKEN * max_tokens + 1


class PieceReader:
    """Reads an output while it comes into being, however it is cut up. Give it what was asked for:
    more is refused as soon as it comes.
    """

    def __init__(self, items: int = MAX_GENERATE_ITEMS, max_tokens: int = MAX_NEW_TOKENS) -> None:
        self._tail = b""
        self._order = Order(items, max_tokens)

    @property
    def items_done(self) -> int | None:
        """How many items are whole; None in the midst of one."""
        return None if self._order.is_within or self._tail else self._order.index

    def feed(self, body: bytes) -> list[Piece]:
        """Take in what came and return the parts that it completes.

        Raises ``RemoteProtocolError`` for what is no part, comes out of turn, says nothing, is more
        than was asked for, or is larger than ``MAX_GENERATE_PIECE_BYTES``.
        """
        stream = io.BytesIO(self._tail + body)
        size_bytes, read_bytes = len(stream.getbuffer()), 0
        parts: list[Piece] = []
        while read_bytes < size_bytes:
            try:
                part = _next_piece(stream)
            except cbor2.CBORDecodeEOF:
                break  # the rest of it is to come
            read_bytes = stream.tell()
            parts.append(self._order.take(part))
        self._tail = stream.getvalue()[read_bytes:]
        if len(self._tail) > MAX_GENERATE_PIECE_BYTES:
            raise RemoteProtocolError("an output of generate has a part that does not end")
        return parts


def pieces(output: bytes) -> Iterator[Piece]:
    """Yield the parts of an output, or of its beginning if that ends with a whole part; raises
    ``RemoteProtocolError``.
    """
    stream = io.BytesIO(output)
    try:
        while stream.tell() < len(output):
            yield _next_piece(stream)
    except cbor2.CBORDecodeEOF as error:
        raise RemoteProtocolError("an output of generate ends in the midst of a part") from error


def _next_piece(stream: io.BytesIO) -> Piece:
    decoder = cbor2.CBORDecoder(stream, max_depth=1, allow_indefinite=False, read_size=1)
    try:
        return msgspec.convert(decoder.decode(), Piece)
    except cbor2.CBORDecodeEOF:
        raise
    except (cbor2.CBORError, msgspec.ValidationError, ValueError, TypeError) as error:
        raise RemoteProtocolError(
            f"an output of generate has a part that is none: {str(error)[:200]}"
        ) from error
