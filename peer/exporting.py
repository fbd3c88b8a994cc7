"""Runs one export beside a daemon's other work: in a thread of its own, page by page, so that
nobody waits for an index longer than a page takes.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import trio

from peer.control import SUMMARY_HEADER
from peer.excerpts import Erased, Excerpt, everything, reader_of
from peer.exports import Write, writer
from peer.identity import Identity
from peer.index import Index
from peer.journal import Journal
from peer.revocations import revoked_in
from peer.rows import BodilessRow, BundleRow, RecordRow
from peer.tables import Cursor
from protocols.authors import Author
from protocols.cid import CID
from protocols.errors import CoveyError, RemoteProtocolError
from protocols.keys import peer_id_of, public_key_of
from protocols.limits import CUT_AFTER_S
from protocols.tombstone import Redaction, Redactions
from protocols.verification import Verdict, verify_excerpt

if TYPE_CHECKING:
    from starlette.responses import StreamingResponse

T = TypeVar("T")

NO_BYTES: Final = "its signed bytes are damaged or not there yet"
CHUNK_BYTES: Final = 1 << 20
MAX_TOLD_UNPROVEN: Final = 100  # in a summary, of 59 characters each
MAX_TOLD_REDACTED: Final = 10  # in a summary, which is a header: reasons have up to 3 kB in JSON

_exporting = trio.CapacityLimiter(1)  # an export reads all over the disk: one at a time is enough

RowsOf = Callable[["AskedShelf"], Iterable[RecordRow]]
"""Which rows are exported; called in the export's thread."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where exports come from, and who makes them: its key signs what they state."""

    index: Index[Any]
    journal: Journal
    identity: Identity
    redactions: Redactions
    suspect: Callable[[int], None] = lambda _: None
    """Told, in a worker thread, of each journal offset at which the index has an entry and the disk
    has none; without a daemon nobody serves it, and nobody need be told."""

    async def export(
        self, form: str, rows: RowsOf, out: BinaryIO, asked: CID | None = None
    ) -> dict[str, Any]:
        """Write rows to ``out`` in a format of ``FORMATS``; return what became of it. Raises
        ``CoveyError`` for what the format cannot hold.
        """
        write = writer(form)
        await self.index.catch_up()
        excerpt = await self._in_thread(lambda: self._written(write, rows, out, asked))
        return {
            "format": form,
            "records": excerpt.records,
            "along": excerpt.along,
            "authors": len(excerpt.authors),
            "unproven": [str(cid) for cid in excerpt.unproven[:MAX_TOLD_UNPROVEN]],
            "more_unproven": max(0, len(excerpt.unproven) - MAX_TOLD_UNPROVEN),
            "redacted": [_erased_told(each) for each in excerpt.redacted()[:MAX_TOLD_REDACTED]],
            "more_redacted": max(0, len(excerpt.redacted()) - MAX_TOLD_REDACTED),
            "bytes": out.tell(),
        }

    async def verify(self, rows: RowsOf, asked: CID, mesh: bytes | None = None) -> dict[str, Any]:
        """Check rows as whoever was given an export of them would, and say what was found; with
        ``mesh``, whether their authors were members of it.

        What an export would leave out for want of signed bytes is a fault here.
        """
        await self.index.catch_up()
        return await self._in_thread(lambda: self._verified(rows, asked, mesh))

    def _verified(self, rows: RowsOf, asked: CID, mesh: bytes | None) -> dict[str, Any]:
        file = io.BytesIO()
        excerpt = self._written(writer("car"), rows, file, asked)
        file.seek(0)
        verdict = verify_excerpt(file.read, mesh=mesh, is_whole=not excerpt.unproven)
        return told(verdict, _why_unproven(excerpt))

    def _written(self, write: Write, rows: RowsOf, out: BinaryIO, asked: CID | None) -> Excerpt:
        shelf = AskedShelf(self.index)
        entry_at, key = reader_of(self.journal, self.suspect), self.identity.key
        excerpt = Excerpt(shelf, entry_at, rows(shelf), key, asked)
        excerpt.redactions = self.redactions
        excerpt.member = self.identity.member
        excerpt.revoked = revoked_in(self.identity.home, excerpt.member.mesh)
        write(excerpt, out)
        excerpt.redacted()  # asked here, where waiting for the index is allowed
        out.seek(0, io.SEEK_END)
        return excerpt

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=_exporting)


def _why_unproven(excerpt: Excerpt) -> Iterator[str]:
    redactions = [each.redaction for each in excerpt.redacted()]
    statements = {cid for each in redactions for cid in (each.tombstone, each.certificate)}
    for cid in excerpt.unproven:
        what = ", by which others are redacted" if cid in statements else ""
        why = "its signed bytes are damaged or not here"
        if cid in excerpt.unsigned:
            why = f"it is not signed yet; records are signed within {CUT_AFTER_S:g} s"
        yield f"record {cid}{what}: {why}"


class AskedShelf:
    """An index as a shelf for another thread: each question waits for its turn."""

    def __init__(self, index: Index[Any]) -> None:
        self._index = index

    def ask(self, question: Callable[[Any], T]) -> T:
        """Put a question to the store itself."""
        return trio.from_thread.run(self._index.ask, question)

    def records(self, cids: Iterable[bytes]) -> list[RecordRow]:
        """See ``Shelf``."""
        wanted = list(cids)
        return self.ask(lambda store: store.records(wanted))

    def feeds(self, since_us: int) -> list[Cursor]:
        """See ``Shelf``."""
        return self.ask(lambda store: store.feeds(since_us))

    def page(self, after: Cursor, since_us: int, limit: int) -> list[RecordRow]:
        """See ``Shelf``."""
        return self.ask(lambda store: store.page(after, since_us, limit))

    def bodiless(self, cids: Iterable[bytes]) -> list[BodilessRow]:
        """See ``Shelf``."""
        wanted = list(cids)
        return self.ask(lambda store: store.bodiless(wanted))

    def places(self, cids: Iterable[bytes]) -> list[RecordRow]:
        """See ``Places``."""
        wanted = list(cids)
        return self.ask(lambda store: store.places(wanted))

    def bundles_over(self, feed: bytes, epoch: int, sequence: int) -> list[BundleRow]:
        """See ``Shelf``."""
        return self.ask(lambda store: store.bundles_over(feed, epoch, sequence))

    def certificates(self, feeds: Iterable[bytes]) -> list[RecordRow]:
        """See ``Shelf``."""
        wanted = list(feeds)
        return self.ask(lambda store: store.certificates(wanted))


def since(moment: str) -> RowsOf:
    """Return all rows since a moment that ``parse_moment`` reads; everything if it is empty."""
    since_us = parse_moment(moment) if moment else 0
    return lambda shelf: everything(shelf, since_us)


def parse_moment(text: str) -> int:
    """Return a moment in ISO 8601, UTC unless it says otherwise, as microseconds since 1970."""
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(1, int(aware.timestamp() * 1_000_000))
    except (ValueError, OverflowError) as error:
        raise CoveyError(
            f"{text!r} is no moment",
            code="bad-input",
            hint="write a date or a time like 2026-11-27 or 2026-11-27T14:30, in UTC",
        ) from error


def redaction_told(redaction: Redaction, signers: Sequence[bytes] = ()) -> dict[str, Any]:
    """Return a redaction as JSON can hold it; ``signers`` signed headers that name the record. Of
    several it is unknown whose record it was.
    """
    peers = [peer_id_of(signer) for signer in signers]
    return {
        "signed_by": peers[0] if len(peers) == 1 else None,
        "named_by": peers,
        "tombstone": str(redaction.tombstone),
        "by": peer_id_of(redaction.by),
        "authority": redaction.authority,
        "at": _iso(redaction.at_us),
        "reason": redaction.reason,
    }


def member_told(author: Author) -> dict[str, Any]:
    """Return what is known of an author's membership as JSON can hold it."""
    times = {"from": author.from_us, "to": author.to_us, "first_outside": author.outside_us}
    return {
        "peer": peer_id_of(author.peer),
        "state": author.state,
        "why": author.why or None,
        "mesh": peer_id_of(author.mesh) if author.mesh else None,
        "roles": list(author.roles),
        "issuers": [peer_id_of(issuer) for issuer in author.issuers],
        **{name: None if us is None else _iso(us) for name, us in times.items()},
        "records": author.records,
        "outside": author.outside,
        "behind_certificate": author.behind,
    }


def mesh_named(text: str) -> bytes | None:
    """Return the mesh of that name, its root's key; none if it is empty. Raises ``CoveyError``."""
    try:
        return public_key_of(text) if text else None
    except RemoteProtocolError as error:
        raise CoveyError(
            f"{text[:80]!r} is not the name of a mesh",
            code="bad-input",
            hint="it looks like a peer id, 12D3KooW…, and `covey status` of a member shows it",
        ) from error


def _erased_told(erased: Erased) -> dict[str, Any]:
    return {"cid": str(erased.cid), **redaction_told(erased.redaction, erased.signers)}


def _iso(at_us: int) -> str:
    try:
        return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{at_us} µs"  # a peer's clock may have said anything


def told(verdict: Verdict, lost: Iterable[str] = ()) -> dict[str, Any]:
    """Return a verdict as JSON can hold it; ``lost`` are faults that lie before the file."""
    faults = [*lost, *map(str, verdict.faults)]
    return {
        "ok": verdict.is_good and not faults,
        "asked": str(verdict.asked) if verdict.asked else None,
        "records": verdict.records,
        "signatures": verdict.signatures,
        "certificates": verdict.certificates,
        "authors": sorted(verdict.authors),
        "mesh": peer_id_of(verdict.mesh) if verdict.mesh else None,
        "members": [member_told(author) for author in verdict.members],
        "missing": sorted(map(str, verdict.missing)),
        "left_out": len(verdict.left_out),
        "redacted": [
            {
                "cid": str(cid),
                **redaction_told(each.redaction, each.signers),
                "mesh": peer_id_of(each.mesh) if each.mesh else None,
            }
            for cid, each in sorted(verdict.redacted.items())
        ],
        "forked": sorted(verdict.forked),
        "faults": faults,
        "more_faults": verdict.fault_count - len(verdict.faults),
    }


async def respond(export: Callable[[BinaryIO], Any], folder: Path) -> StreamingResponse:
    """Export into a nameless file in ``folder`` and stream it, with the summary in a header:
    whoever asked learns of an error before the first byte.
    """
    from starlette.responses import StreamingResponse

    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed when it has been streamed
    try:
        summary = await export(file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    headers = {SUMMARY_HEADER: json.dumps(summary)}
    return StreamingResponse(_chunks(file), media_type="application/octet-stream", headers=headers)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while chunk := await trio.to_thread.run_sync(file.read, CHUNK_BYTES):
            yield chunk
