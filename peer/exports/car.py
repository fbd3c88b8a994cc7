"""CARv1: the records as their authors wrote them, and the signatures that prove it. The one format
that can be verified from the file alone, with the certificates that show whose keys they are; see
``protocols.excerpt``.
"""

from __future__ import annotations

from typing import BinaryIO

from peer.excerpts import Excerpt, TooManyError
from protocols.cid import CID
from protocols.excerpt import Writer
from protocols.limits import MAX_EXCERPT_RECORDS
from protocols.membership import Membership
from protocols.roster import shown_record


def write(excerpt: Excerpt, out: BinaryIO) -> None:
    """Write a CAR file whose roots are what was asked for, if anything was, and its contents."""
    writer = Writer(excerpt.asked)
    out.write(writer.head())
    for part in excerpt.parts():
        out.writelines(writer.part(part))
        if len(writer.records) > MAX_EXCERPT_RECORDS:
            raise TooManyError(
                f"more than {MAX_EXCERPT_RECORDS} records do not go into one CAR file",
                hint="export a lineage, or less with --since; Parquet has no such limit",
            )
    erased = [each for each in excerpt.redacted() if each.proofs]
    for part in excerpt.authority(erased):
        out.writelines(writer.part(part))
    for each in erased:
        if each.redaction.tombstone in writer.records:
            redacted = (each.cid, each.redaction.tombstone)
            out.writelines(writer.redact(proof, *redacted) for proof in each.proofs)
    _show_members(excerpt, writer, out)
    known = excerpt.known(sorted(writer.absent)) - set(excerpt.unproven)
    last = list(writer.end(known))
    out.writelines(section for section, _cid in last)
    out.seek(0)
    out.write(writer.head(last[-1][1]))


def _show_members(excerpt: Excerpt, writer: Writer, out: BinaryIO) -> None:
    """Write the signers' certificates, and who was put out of their mesh."""
    for part in excerpt.certificates(writer.records):
        out.writelines(writer.part(part))
    member = excerpt.member
    if member is not None and _is_lacking(member, excerpt, writer):
        out.write(writer.member(member))
    if excerpt.revoked is not None:
        out.write(writer.revoke(excerpt.revoked))


def _is_lacking(member: Membership, excerpt: Excerpt, writer: Writer) -> bool:
    """Say whether whoever exports signed something here and no record shows its certificate."""
    is_signer = member.certificate.peer in excerpt.signers
    return is_signer and CID.of(shown_record(member).encode()) not in writer.records
