"""CARv1: blocks and their CIDs in one file that every IPLD tool reads.

::

    file    = head section*
    head    = length varint | DAG-CBOR {"roots": [CID…], "version": 1}
    section = length varint | CID | block        the length is that of CID and block

Ours are read and written a section at a time. The reader believes nothing: every length is bounded
before anything is read, and a block is handed out only if its CID is the name of its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from protocols import dagcbor
from protocols.cid import CID, CID_BYTES, DAG_CBOR, is_strict
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_CAR_HEAD_BYTES, MAX_CAR_ROOTS, MAX_RECORD_BYTES

VERSION: Final = 1
MAX_SECTION_BYTES: Final = CID_BYTES + MAX_RECORD_BYTES
_MAX_VARINT_BYTES: Final = 4  # 2^28 - 1: above every length that is allowed here

Read = Callable[[int], bytes]
"""Returns as many bytes as asked for, fewer only at the end, as a binary file's ``read`` does."""


class Section(NamedTuple):
    """One block, or what is wrong with it."""

    offset: int
    """Where its length stands in the file."""
    cid: CID
    block: bytes
    is_whole: bool
    """Whether the CID is the name of the bytes."""


def encode_head(roots: Sequence[CID]) -> bytes:
    """Return a file's first bytes; their number depends on the number of roots alone."""
    head = dagcbor.encode({"roots": list(roots), "version": VERSION})
    return _varint(len(head)) + head


def encode_section(cid: CID, block: bytes) -> bytes:
    """Return one block as it stands in a file."""
    return _varint(len(cid) + len(block)) + cid + block


class CarReader:
    """Reads a file from its start: ``roots`` at once, then each section as it is asked for.

    Raises ``RemoteProtocolError`` with code ``bad-car``, whose message names the byte, for what
    leaves no way to find the next section. A block that is not what its CID names is no such thing.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._offset = 0
        length = self._length("head", MAX_CAR_HEAD_BYTES)
        if length is None:
            raise _bad(0, "the file is empty")
        self.roots = _roots(self._take(length, "head"))

    def sections(self) -> Iterator[Section]:
        """Yield what is left of the file, section by section."""
        while True:
            offset = self._offset
            length = self._length("section", MAX_SECTION_BYTES)
            if length is None:
                return
            if length <= CID_BYTES:
                raise _bad(offset, f"a section of {length} bytes holds no block")
            content = self._take(length, "section")
            yield _section(offset, content)

    def _length(self, what: str, most: int) -> int | None:
        """Read the length of what follows, none at the end of the file."""
        start, number = self._offset, 0
        for index in range(_MAX_VARINT_BYTES):
            byte = self._read(1)
            if not byte and not index:
                return None
            if not byte:
                raise _bad(start, f"the file ends within the length of a {what}")
            self._offset += 1
            number |= (byte[0] & 0x7F) << (7 * index)
            if byte[0] < 0x80:
                if byte[0] == 0 and index:
                    raise _bad(start, f"the length of a {what} is not in its shortest form")
                if number > most:
                    raise _bad(start, f"a {what} of {number} bytes is over the limit of {most}")
                return number
        raise _bad(start, f"the length of a {what} is over the limit of {most}")

    def _take(self, length: int, what: str) -> bytes:
        content = self._read(length)
        if len(content) < length:
            raise _bad(self._offset, f"the file ends within a {what} of {length} bytes")
        self._offset += length
        return content


def _section(offset: int, content: bytes) -> Section:
    name, block = content[:CID_BYTES], content[CID_BYTES:]
    if not is_strict(name) or name[1] != DAG_CBOR:
        raise _bad(offset, "a block is not named by a CIDv1 of dag-cbor under sha2-256")
    cid = CID(name)
    return Section(offset, cid, block, CID.of(block) == cid)


def _roots(head: bytes) -> tuple[CID, ...]:
    try:
        value: Any = dagcbor.decode(head)
    except RemoteProtocolError as error:
        raise _bad(0, f"the head is not strict DAG-CBOR: {error.message}") from error
    match value:
        case {"roots": [*roots], "version": 1} if len(value) == 2:
            if 0 < len(roots) <= MAX_CAR_ROOTS and all(type(root) is CID for root in roots):
                return tuple(roots)
            raise _bad(0, f"the head does not name 1 to {MAX_CAR_ROOTS} roots")
        case _:
            raise _bad(0, "the head is not that of a CAR file of version 1")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _bad(offset: int, what: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"byte {offset}: {what}", code="bad-car", hint="export it again, or copy it again"
    )
