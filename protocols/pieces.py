"""Inputs and outputs on the wire: pieces of at most 64 KiB with an index and a running digest.

The digest of piece ``n`` is sha256 over the salt and all content up to its end. So a damaged piece
is noticed when it comes, and the last digest is the commitment's own: content is hashed once on
each side, and what arrived whole is what was committed to.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from protocols.cid import CID, RAW
from protocols.errors import RemoteProtocolError
from protocols.limits import BULK_CHUNK_BYTES, MAX_INLINE_PIECE_BYTES


class Piece(msgspec.Struct, frozen=True):
    """One stretch of content in transit."""

    index: int
    body: bytes
    digest: bytes


class Held(NamedTuple):
    """How much of some content its receiver has: the first pieces, and the digest at their end.

    Pieces are counted as their sender cut them. The digest is of all content up to there, so that
    equal ones at one count mean equal content, however it is cut.
    """

    pieces: int = 0
    digest: bytes = b""

    def begins(self, digests: Sequence[bytes]) -> bool:
        """Whether it is something, and the beginning of content with these digests, or all."""
        return 0 < self.pieces <= len(digests) and digests[self.pieces - 1] == self.digest

    def check_claim(self, digests: Sequence[bytes]) -> None:
        """Raise ``RemoteProtocolError`` if it is not the beginning of the input with these digests.
        Nor may it be all of it: its worker would run.
        """
        if self.pieces and (self.pieces >= len(digests) or not self.begins(digests)):
            raise RemoteProtocolError(
                f"it claims to have {self.pieces} pieces of an input that are none",
                code="wrong-resume",
            )


NOTHING: Final = Held()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Content ready to be sent, as often as needed, with its commitment. Make it with ``cut``, or
    with ``Growing``, whose pieces end where they happened to end: at ``ends``.
    """

    content: bytes
    digests: tuple[bytes, ...]
    ends: tuple[int, ...] = ()

    @classmethod
    def cut(cls, salt: bytes, content: bytes) -> Outgoing:
        """Hash ``content`` under ``salt``; even empty content is one piece. Costs about 1 ms a
        megabyte.
        """
        running = hashlib.sha256(salt)
        digests: list[bytes] = []
        for start in range(0, max(len(content), 1), BULK_CHUNK_BYTES):
            running.update(content[start : start + BULK_CHUNK_BYTES])
            digests.append(running.digest())
        return cls(content, tuple(digests))

    @property
    def cid(self) -> CID:
        """The commitment to this content under its salt."""
        return CID.of_digest(self.digests[-1], RAW)

    @property
    def is_inline(self) -> bool:
        """Whether it is small enough to travel among ordinary messages."""
        return len(self.content) <= MAX_INLINE_PIECE_BYTES

    def begins_with(self, held: Held) -> bool:
        """Whether what a receiver has is the beginning of this content, or all of it."""
        return held.begins(self.digests)

    def pieces(self, first: int = 0) -> Iterator[Piece]:
        """Yield the pieces in order, from number ``first`` on."""
        for index in range(first, len(self.digests)):
            start, end = index * BULK_CHUNK_BYTES, (index + 1) * BULK_CHUNK_BYTES
            if self.ends:
                start, end = self.ends[index - 1] if index else 0, self.ends[index]
            yield Piece(index, self.content[start:end], self.digests[index])


class Growing:
    """An output that is sent while it comes into being: each piece as it is added, and all of them
    again to whoever comes later.
    """

    def __init__(self, salt: bytes) -> None:
        self._running = hashlib.sha256(salt)
        self._content = bytearray()
        self._digests: list[bytes] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self._digests)

    def begins_with(self, held: Held) -> bool:
        """Whether what a receiver has is the beginning of what there is, or all of it."""
        return held.begins(self._digests)

    def complete(self, content: bytes) -> Outgoing | None:
        """Add the rest of ``content`` and return it, ready to be sent; None if it does not begin
        with what is here.
        """
        if not content.startswith(self._content):
            return None
        if rest := content[len(self._content) :]:
            self.add(rest)
        return Outgoing(content, tuple(self._digests), tuple(self._ends))

    def add(self, body: bytes) -> None:
        """Append what came into being since the last piece: something, if it is not the first."""
        for start in range(0, max(len(body), 1), BULK_CHUNK_BYTES):
            part = body[start : start + BULK_CHUNK_BYTES]
            self._running.update(part)
            self._content += part
            self._digests.append(self._running.digest())
            self._ends.append(len(self._content))

    def pieces(self, first: int) -> Iterator[Piece]:
        """Yield the pieces that there are, from number ``first`` on."""
        for index in range(first, len(self)):
            start = self._ends[index - 1] if index else 0
            yield Piece(
                index, bytes(self._content[start : self._ends[index]]), self._digests[index]
            )


class Incoming:
    """Content being received: checks every piece, and forgets nothing that passed.

    ``limit_bytes`` bounds what is held. A piece that came already is ignored.
    """

    def __init__(self, salt: bytes, limit_bytes: int) -> None:
        self.count = 0
        self.size_bytes = 0
        self._running = hashlib.sha256(salt)
        # Not a list to be joined in the end, which copies all of it while everyone else waits.
        self._content = io.BytesIO()
        self._limit_bytes = limit_bytes

    def add(self, piece: Piece) -> None:
        """Take the next piece; raise ``RemoteProtocolError`` for a gap, too much content or a wrong
        digest.
        """
        if piece.index < self.count:
            return
        if piece.index > self.count:
            raise RemoteProtocolError(
                f"piece {piece.index} came where {self.count} was due", code="piece-missing"
            )
        if self.count and not piece.body:
            raise RemoteProtocolError("an empty piece came behind others", code="piece-empty")
        if self.size_bytes + len(piece.body) > self._limit_bytes:
            raise RemoteProtocolError(
                f"more than the agreed {self._limit_bytes} bytes came", code="too-big"
            )
        running = self._running.copy()
        running.update(piece.body)
        if running.digest() != piece.digest:
            raise RemoteProtocolError(
                f"the digest of piece {piece.index} is wrong", code="piece-damaged"
            )
        self._running = running
        self._content.write(piece.body)
        self.count += 1
        self.size_bytes += len(piece.body)

    def holds(self, size_bytes: int) -> bool:
        """Whether content of exactly that size is here; an empty content's one piece must have come
        too.
        """
        return self.count > 0 and self.size_bytes == size_bytes

    @property
    def held(self) -> Held:
        """What came so far, as its sender is told to go on behind it."""
        return Held(self.count, self._running.digest()) if self.count else NOTHING

    @property
    def cid(self) -> CID:
        """The commitment to what came so far."""
        return CID.of_digest(self._running.digest(), RAW)

    def content(self) -> bytes:
        """Return what came so far; without a copy of it, as long as no more comes."""
        return self._content.getvalue()
