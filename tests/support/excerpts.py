"""Excerpts of a signed job, as parts and as CAR files, and readers of files that are made wrong."""

from __future__ import annotations

import io
from collections.abc import Iterable

from protocols.car import encode_head, encode_section
from protocols.cid import CID
from protocols.excerpt import Part, Writer
from protocols.feed import Bundle, SignedHeader
from protocols.membership import Membership
from protocols.verification import Verdict, verify_excerpt
from tests.support.home import Author, SignedJob
from tests.support.members import key_of


def a_job() -> tuple[SignedJob, list[Part]]:
    """A job of two peers, whose records are all there."""
    worker, submitter = Author(key_of(1)), Author(key_of(2))
    job = SignedJob(worker, submitter)
    return job, [part_of(worker.cut()), part_of(submitter.cut())]


def part_of(bundle: Bundle, *places: int) -> Part:
    """The bundle's records at these places, all by default."""
    proof = SignedHeader(bundle.header_bytes, bundle.signature, bundle.header)
    records = [bundle.records[place] for place in places] if places else bundle.records
    return Part(proof, tuple(records))


def car_of(
    parts: Iterable[Part],
    asked: CID | None = None,
    known: Iterable[CID] = (),
    members: Iterable[Membership] = (),
    revoked: Iterable[bytes] = (),
) -> bytes:
    """The CAR file of these parts, certificates and revocation lists."""
    writer = Writer(asked)
    sections = [section for part in parts for section in writer.part(part)]
    sections += [*map(writer.member, members), *map(writer.revoke, revoked)]
    last = list(writer.end(set(known)))
    contents = last[-1][1]
    return writer.head(contents) + b"".join([*sections, *(section for section, _ in last)])


def car(roots: list[CID], *blocks: bytes) -> bytes:
    """A CAR file of whatever blocks."""
    return encode_head(roots) + b"".join(encode_section(CID.of(b), b) for b in blocks)


def verdict_of(file: bytes, about: CID | None = None, mesh: bytes | None = None) -> Verdict:
    """What the verifier says of a file."""
    return verify_excerpt(io.BytesIO(file).read, about, mesh)


def faults_of(file: bytes, about: CID | None = None) -> list[str]:
    """What it says is wrong, in its words."""
    return [str(fault) for fault in verdict_of(file, about).faults]
