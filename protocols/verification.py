"""Checks an excerpt from nothing but its file: every block against its name, every record against a
header that its own author signed, every parent against what is there or declared to be absent.

Whoever made the file is not believed, nor is anything asked of anybody. What a verified file proves
is that these keys signed these records and, where it shows certificates, of which mesh they were
members; nothing about whether they speak the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Final, NamedTuple

from protocols import excerpt
from protocols.authors import MEMBER, Author, Authors
from protocols.car import CarReader, Read, Section
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.excerpt import Absent, Contents, Proof, decode, parents_of
from protocols.feed import SignedHeader, conflict
from protocols.keys import PeerId, peer_id_of
from protocols.limits import MAX_EXCERPT_NAMES, MAX_EXCERPT_RECORDS, MAX_SHOWN_FAULTS
from protocols.membership import Certificate, may
from protocols.record import Record
from protocols.roster import CERTIFICATE_KIND, CHAIN
from protocols.tombstone import AUTHOR, TOMBSTONE_KIND, Redaction, Tombstone

WHOLE_FILE: Final = -1
_COUNTED: Final = (
    "records",
    "proofs",
    "missing parents",
    "parents left out",
    "redacted records",
    "members",
    "revocation lists",
)


class Fault(NamedTuple):
    """What is wrong, and at which byte of the file; ``WHOLE_FILE`` for what is nowhere in it."""

    offset: int
    what: str

    def __str__(self) -> str:
        return self.what if self.offset == WHOLE_FILE else f"byte {self.offset}: {self.what}"


class Redacted(NamedTuple):
    """What a file proves of a record that was erased: that these keys signed headers naming it, not
    that one made the record, for anybody can name what somebody else made.
    """

    signers: tuple[bytes, ...]
    redaction: Redaction
    mesh: bytes | None
    """The mesh whose certificate shows that an aggregator did it; none when the signer did."""


@dataclass(slots=True)
class Verdict:
    """What was checked and what is wrong; the file holds when there is no fault."""

    asked: CID | None = None
    is_car: bool = False
    """Whether the file begins as a CAR file does: if not, nothing else was looked at."""
    blocks: int = 0
    records: int = 0
    signatures: int = 0
    certificates: int = 0
    """How many are shown: by how many of the records, or by themselves."""
    authors: set[PeerId] = field(default_factory=set[PeerId])
    mesh: bytes | None = None
    """The mesh that every author must have been a member of; none if that was not asked."""
    members: list[Author] = field(default_factory=list[Author])
    """What the file shows of each author's membership."""
    missing: set[CID] = field(default_factory=set[CID])
    """Parents that whoever exported had not got either."""
    left_out: set[CID] = field(default_factory=set[CID])
    """Parents beyond what was asked for."""
    redacted: dict[CID, Redacted] = field(default_factory=dict[CID, Redacted])
    """Records whose bodies were erased, by whom and why: no fault, and nothing is left of them to
    check but that somebody signed a header that names them."""
    forked: set[PeerId] = field(default_factory=set[PeerId])
    """Authors who signed two truths, both of which are in the file: no fault of the file's."""
    faults: list[Fault] = field(default_factory=list[Fault])
    """The first ones; ``fault_count`` counts all."""
    fault_count: int = 0

    @property
    def is_good(self) -> bool:
        """Whether everything in the file holds, and every author was a member where that was
        asked.
        """
        return not self.fault_count and (self.mesh is None or not self.strangers)

    @property
    def strangers(self) -> list[Author]:
        """The authors that do not show to have been members whenever they signed."""
        return [author for author in self.members if author.state != MEMBER]


def verify_excerpt(
    read: Read, about: CID | None = None, mesh: bytes | None = None, *, is_whole: bool = True
) -> Verdict:
    """Check a whole file; ``about`` must be a record in it or an entity that one names, and each
    author a member of ``mesh`` whenever it signed. Of one that ``is_whole`` not, whoever asks knows
    what was left out, and tells it: that nothing here is ``about`` it or signed is no other fault.

    Never raises for what is in the file. Memory is bounded by ``MAX_EXCERPT_RECORDS``.
    """
    check = _Check(about, mesh, is_whole)
    try:
        reader = CarReader(read)
        check.verdict.is_car = True
        check.start(reader.roots)
        for section in reader.sections():
            check.take(section)
    except RemoteProtocolError as error:
        check.fault(WHOLE_FILE, error.message)
        return check.verdict  # the rest of the file is unknown: what is absent proves nothing
    check.end()
    return check.verdict


class _Unproven(NamedTuple):
    cid: CID
    author: bytes
    offset: int


class _Check:
    """The state of one verification."""

    def __init__(self, about: CID | None, mesh: bytes | None, is_whole: bool) -> None:
        self._is_whole = is_whole
        self.verdict = Verdict(mesh=mesh)
        self._authors = Authors(mesh)
        self._statements = 0
        self._roots: tuple[CID, ...] = ()
        self._names = 0
        self._wanted = about
        self._is_wanted_named = False
        self._present: set[CID] = set()
        self._parents: dict[CID, CID] = {}
        self._unproven: dict[bytes, _Unproven] = {}
        self._headers: list[SignedHeader] = []
        self._contents: tuple[CID, Contents] | None = None
        self._tombstones: dict[CID, tuple[Redaction, frozenset[CID]]] = {}
        self._shown: dict[bytes, tuple[CID, bytes]] = {}

    def fault(self, offset: int, what: str) -> None:
        self.verdict.fault_count += 1
        if len(self.verdict.faults) < MAX_SHOWN_FAULTS:
            self.verdict.faults.append(Fault(offset, what))

    def start(self, roots: tuple[CID, ...]) -> None:
        self._roots = roots
        if len(roots) > 1:
            self.verdict.asked = roots[0]
            self._wanted = self._wanted or roots[0]

    def take(self, section: Section) -> None:
        """Check one block by itself, and remember what it says about others."""
        offset, cid, block, is_whole = section
        self.verdict.blocks += 1
        if not is_whole:
            self.fault(offset, f"the bytes of block {cid} are not those that it is named by")
            return
        if self._contents is not None:
            self.fault(offset, f"block {cid} stands behind the contents, which come last")
        try:
            said = decode(block)
            if isinstance(said, Record):
                self._take_record(offset, cid, block, said)
            elif isinstance(said, Proof):
                self._take_proof(offset, said)
            elif isinstance(said, excerpt.Redacted):
                self._take_redacted(offset, said)
            elif isinstance(said, Contents):
                self._contents = (cid, said)
            else:
                self._take_statement(offset, said)
        except RemoteProtocolError as error:
            if error.code == "too-many":
                raise
            self.fault(offset, f"block {cid}: {error.message}")

    def _take_statement(
        self, offset: int, said: Absent | excerpt.Member | excerpt.Revocations
    ) -> None:
        if isinstance(said, Absent):
            self._count(offset, (*said.missing, *said.left_out))
            self.verdict.missing.update(said.missing)
            self.verdict.left_out.update(said.left_out)
        elif isinstance(said, excerpt.Member):
            self._statements += 1
            peer = Certificate.decode(said.certificate).peer
            chain = said.certificate, said.issuer_certificate
            self._authors.show(peer, dict(zip(CHAIN, chain, strict=True)))
        else:
            self._authors.revoke(said.revoked)

    def _take_record(self, offset: int, cid: CID, block: bytes, record: Record) -> None:
        if cid in self._present:
            self.fault(offset, f"record {cid} is here twice")
            return
        self._count(offset, record.informed_by, len(self._present))
        self._present.add(cid)
        self._unproven[sha256(block).digest()] = _Unproven(cid, record.author, offset)
        for parent in parents_of(record):
            self._parents.setdefault(parent, cid)
        if record.kind in (TOMBSTONE_KIND, CERTIFICATE_KIND):
            self._take_authority(offset, cid, record)
        if not self._is_wanted_named:
            links = (*record.used, *record.generated)
            self._is_wanted_named = any(target == self._wanted for target, _ in links)

    def _take_authority(self, offset: int, cid: CID, record: Record) -> None:
        """Keep what a record says about who may redact what; one that says nothing is no fault."""
        with suppress(RemoteProtocolError):
            if record.kind == TOMBSTONE_KIND:
                tombstone = Tombstone.from_attributes(record.attributes)
                self._count(offset, tombstone.records)
                said = (record.author, record.start_us, tombstone.reason, tombstone.authority)
                self._tombstones[cid] = Redaction(cid, *said), frozenset(tombstone.records)
            else:
                shown = self._authors.show(record.author, record.attributes, cid)
                if may(shown.roles, TOMBSTONE_KIND):
                    self._shown[record.author] = cid, shown.mesh

    def _take_redacted(self, offset: int, said: excerpt.Redacted) -> None:
        signed = SignedHeader.decode(said.header, said.signature)
        self._count(offset, signed.header.digests)
        self._headers.append(signed)
        digests = signed.header.digests
        named = [(digests.index(cid.digest), cid) for cid in said.records if cid.digest in digests]
        self._authors.sign(signed.header, named)
        signer = signed.header.feed
        self.verdict.authors.add(peer_id_of(signer))
        for cid in said.records:
            fault = self._redaction_fault(signed, cid, said.tombstone)
            if fault is not None:
                self.fault(offset, f"record {cid} is said to be redacted, and {fault}")
                continue
            redaction, _ = self._tombstones[said.tombstone]
            certificate, mesh = self._shown.get(redaction.by, (None, None))
            if redaction.authority == AUTHOR:
                certificate, mesh = None, None
            shown = redaction._replace(certificate=certificate)
            before = self.verdict.redacted.get(cid)
            signers = (*(before.signers if before else ()), signer)
            self.verdict.redacted[cid] = Redacted(tuple(dict.fromkeys(signers)), shown, mesh)

    def _redaction_fault(self, signed: SignedHeader, cid: CID, tombstone: CID) -> str | None:
        if cid.digest not in signed.header.digests:
            return "the header beside it does not name it"
        redaction, named = self._tombstones.get(tombstone, (None, frozenset[CID]()))
        if redaction is None or cid not in named:
            return f"tombstone {tombstone} is not in front of it, or does not name it"
        if redaction.authority == AUTHOR:
            if redaction.by != signed.header.feed:
                return f"tombstone {tombstone} is by another author"
        elif redaction.by not in self._shown:
            return f"no certificate in front of it shows that tombstone {tombstone} counts"
        return None

    def _take_proof(self, offset: int, proof: Proof) -> None:
        signed = SignedHeader.decode(proof.header, proof.signature)
        self._count(offset, signed.header.digests)
        self._headers.append(signed)
        self.verdict.signatures += 1
        self.verdict.authors.add(peer_id_of(signed.header.feed))
        proven: list[tuple[int, CID]] = []
        for at, digest in enumerate(signed.header.digests):
            record = self._unproven.get(digest)
            if record is not None and record.author == signed.header.feed:
                del self._unproven[digest]
                proven.append((at, record.cid))
        self.verdict.records += len(proven)
        self._authors.sign(signed.header, proven)
        if not proven:
            self.fault(offset, f"header {signed.cid} proves no record in front of it")

    def _count(self, offset: int, names: Sized, records: int = 0) -> None:
        """Refuse to go on when there is more than memory should hold."""
        self._names += len(names)
        if self._names > MAX_EXCERPT_NAMES or records >= MAX_EXCERPT_RECORDS:
            raise RemoteProtocolError(
                f"byte {offset}: more than {MAX_EXCERPT_RECORDS} records or"
                f" {MAX_EXCERPT_NAMES} names of others",
                code="too-many",
            )

    def end(self) -> None:
        """Check what can be said only of the whole file."""
        for unproven in self._unproven.values():
            author = peer_id_of(unproven.author)
            self.fault(
                unproven.offset,
                f"record {unproven.cid}: no header behind it that its author {author} signed"
                " names it",
            )
        self._check_parents()
        self._check_contents()
        if self._is_whole:
            self._check_wanted()
        self.verdict.forked = set(_forked(self._headers))
        self.verdict.members = self._authors.judged()
        self.verdict.certificates = self._authors.certificates
        if self._is_whole and self.verdict.mesh is not None and not self.verdict.members:
            self.fault(WHOLE_FILE, "nobody signed anything here: it shows no member of any mesh")

    def _check_wanted(self) -> None:
        wanted = self._wanted
        known = self._present | self.verdict.redacted.keys()
        if wanted is not None and wanted not in known and not self._is_wanted_named:
            self.fault(WHOLE_FILE, f"no record here is called {wanted} or names it")

    def _check_parents(self) -> None:
        declared = self.verdict.missing | self.verdict.left_out | self.verdict.redacted.keys()
        for parent, child in self._parents.items():
            if parent not in self._present and parent not in declared:
                self.fault(
                    WHOLE_FILE,
                    f"record {child} names {parent}, which is neither here nor said to be absent",
                )
        for cid in sorted(declared & self._present):
            self.fault(WHOLE_FILE, f"record {cid} is said to be absent, and is here")

    def _check_contents(self) -> None:
        if self._contents is None:
            self.fault(WHOLE_FILE, "the contents are not at its end: the file was cut")
            return
        cid, contents = self._contents
        if self._roots[-1] != cid or (contents.asked,) != (self._roots[:-1] or (None,)):
            self.fault(WHOLE_FILE, "the roots are not what was asked for and the contents")
        told = (
            contents.records,
            contents.proofs,
            contents.missing,
            contents.left_out,
            contents.redacted,
            contents.members,
            contents.revocations,
        )
        verdict = self.verdict
        found = (
            len(self._present),
            verdict.signatures,
            len(verdict.missing),
            len(verdict.left_out),
            len(verdict.redacted),
            self._statements,
            self._authors.revocations,
        )
        for name, here, there in zip(_COUNTED, found, told, strict=True):
            if here != there:
                self.fault(WHOLE_FILE, f"the contents tell of {there} {name}; {here} are here")


def _forked(headers: list[SignedHeader]) -> Iterator[PeerId]:
    """Yield the feeds of which two headers can't both be true."""
    ordered = sorted(
        {signed.cid: signed for signed in headers}.values(),
        key=lambda signed: (signed.header.feed, signed.header.epoch, signed.header.first_sequence),
    )
    for one, other in pairwise(ordered):
        if conflict(one, other):
            yield peer_id_of(one.header.feed)
