"""An admitter's book of tickets: which were issued, which were used by whom; never their secrets.

The file is a log of JSON lines with checksums, each fsynced before anybody acts on it. A line that
a crash or a loss of power tore, or filled with anything, is cut at the next start: nobody was told
of it. A whole one that rotted is not: the ticket that it uses up would be good again. Old tickets
are dropped at a start too, but the one that made a peer the mesh's filer stays, since there may be
only one.
"""

from __future__ import annotations

import errno
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from peer.durable import write_durably
from protocols.errors import CoveyError, LocalProtocolError, Refused, RemoteProtocolError
from protocols.limits import MAX_TICKETS, TICKET_MEMORY_S
from protocols.membership import FILER, Certificate

TICKETS_FILE: Final = "tickets.jsonl"
LINE_BYTES_MAX: Final = 4 << 10  # a digest and MAX_CERTIFICATE_BYTES, in base64
PRINTABLE: Final = bytes(range(0x20, 0x7F))
ROTTED_BYTES_MAX: Final = 1  # a flipped bit makes one byte unprintable; lost sectors make many

log = logging.getLogger(__name__)


class Issued(msgspec.Struct, frozen=True, tag="issued"):
    """A ticket was printed."""

    digest: bytes
    roles: tuple[str, ...]
    expires_us: int


class Used(msgspec.Struct, frozen=True, tag="used"):
    """A ticket bought this certificate."""

    digest: bytes
    certificate: bytes


@dataclass(slots=True)
class Grant:
    """One ticket: what it is good for, and the certificate that it bought."""

    issued: Issued
    certificate: Certificate | None = None


class TicketBook:
    """The tickets of one admitter, in memory and in a file that one process at a time writes."""

    def __init__(self, path: Path, now_us: int) -> None:
        self._path = path
        self._grants: dict[bytes, Grant] = {}
        for event in _read(path):
            self._apply(event)
        self._forget_old(now_us)
        self._rewrite()

    def filers(self) -> list[Certificate]:
        """Return the certificates with which tickets made peers the mesh's filer."""
        found = (grant.certificate for grant in self._grants.values() if _is_filer(grant))
        return [certificate for certificate in found if certificate is not None]

    def get(self, digest: bytes) -> Grant | None:
        """Return the ticket whose secret has this digest."""
        return self._grants.get(digest)

    def add(self, issued: Issued, now_us: int) -> None:
        """Remember a new ticket, durably."""
        if len(self._grants) >= MAX_TICKETS:
            self._forget_old(now_us)
        if len(self._grants) >= MAX_TICKETS:
            raise LocalProtocolError(
                f"{MAX_TICKETS} tickets are open already",
                code="too-many-tickets",
                hint="wait until some of them expire",
            )
        self._append(issued)

    def use(self, digest: bytes, certificate: Certificate) -> None:
        """Use a ticket up, durably; raise ``LocalProtocolError`` when it is unknown or used."""
        grant = self._grants.get(digest)
        if grant is None or grant.certificate is not None:
            raise LocalProtocolError("a ticket is used once", code="ticket-used")
        self._append(Used(digest, certificate.encode()))

    def _apply(self, event: Issued | Used) -> None:
        if isinstance(event, Issued):
            self._grants[event.digest] = Grant(event)
        elif event.digest in self._grants:
            self._grants[event.digest].certificate = Certificate.decode(event.certificate)

    def _append(self, event: Issued | Used) -> None:
        """Write synchronously, though the loop waits for the disk: nothing may come between the
        check of a ticket and its use, and people join rarely.
        """
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                _append_line(handle, _line(event))
            finally:
                os.close(handle)
        except OSError as error:
            raise Refused(
                f"the admitter cannot write {self._path.name}: {error.strerror}",
                code="admitter-disk",
                hint="free space on the admitter's disk, and try again",
            ) from error
        self._apply(event)

    def _forget_old(self, now_us: int) -> None:
        latest = now_us - TICKET_MEMORY_S * 1_000_000
        self._grants = {
            digest: grant
            for digest, grant in self._grants.items()
            if grant.issued.expires_us > latest or _is_filer(grant)
        }

    def _rewrite(self) -> None:
        write_durably(self._path, b"".join(_line(event) for event in self._events()))

    def _events(self) -> Iterator[Issued | Used]:
        for digest, grant in self._grants.items():
            yield grant.issued
            if grant.certificate is not None:
                yield Used(digest, grant.certificate.encode())


def _is_filer(grant: Grant) -> bool:
    return grant.certificate is not None and FILER in grant.certificate.roles


def _line(event: Issued | Used) -> bytes:
    said = msgspec.json.encode(event)
    return b"%b %08x\n" % (said, zlib.crc32(said))


def _append_line(handle: int, line: bytes) -> None:
    """Add a whole line and sync it, or leave the file alone: half a line would join the next."""
    size = os.fstat(handle).st_size
    try:
        if os.write(handle, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise


def _read(path: Path) -> list[Issued | Used]:
    """Return what the file says; what a crash or a loss of power left of the line that was being
    written is left out: nothing whole comes behind it, it is no longer than a line can be, and it
    does not look like a whole one that rotted.
    """
    try:
        *lines, unended = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    events = [_event(line) for line in lines]
    while events and events[-1] is None:
        events.pop()
    ended, torn = lines[len(events) :], unended
    if not ended and (last := _event(unended) or _event(unended[:-1])):
        events, torn = [*events, last], b""  # nobody was told of it, but no harm is done
    torn = b"\n".join([*ended, torn])
    whole = [event for event in events if event is not None]
    is_rotted = any(map(_may_be_rotted, ended))
    if len(whole) < len(events) or len(torn) > LINE_BYTES_MAX or is_rotted:
        raise CoveyError(
            f"{path} is damaged",
            code="tickets-damaged",
            hint=f"remove {path}: open tickets become void, members stay members",
        )
    if torn:
        log.warning("torn line of tickets cut", extra={"size_bytes": len(torn)})
    return whole


def _may_be_rotted(line: bytes) -> bool:
    """Say whether a line with an end that says nothing may have been whole."""
    return bool(line) and len(line.translate(None, PRINTABLE)) <= ROTTED_BYTES_MAX


def _event(line: bytes) -> Issued | Used | None:
    """Return what a line says; None for one that is not whole."""
    said, _space, checksum = line.rpartition(b" ")
    if not said and line.endswith(b"}"):
        said = line  # of a version that wrote no checksums
    elif checksum != b"%08x" % zlib.crc32(said):
        return None
    try:
        event = msgspec.json.decode(said, type=Issued | Used)
        if isinstance(event, Used):
            Certificate.decode(event.certificate)
    except (msgspec.DecodeError, UnicodeDecodeError, RemoteProtocolError):
        return None
    return event
