"""CARv1: the records as their authors wrote them, and the signatures that prove it. The one format
that can be verified from the file alone; see ``protocols.excerpt``.
"""

from __future__ import annotations

from typing import BinaryIO

from peer.excerpts import Excerpt, TooManyError
from protocols.excerpt import Writer
from protocols.limits import MAX_EXCERPT_RECORDS


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
    erased = [each for each in excerpt.redacted() if each.proof is not None]
    for part in excerpt.authority(erased):
        out.writelines(writer.part(part))
    for each in erased:
        if each.proof is not None and each.redaction.tombstone in writer.records:
            out.write(writer.redact(each.proof, each.cid, each.redaction.tombstone))
    known = excerpt.known(sorted(writer.absent))
    last = list(writer.end(known))
    out.writelines(section for section, _cid in last)
    out.seek(0)
    out.write(writer.head(last[-1][1]))
