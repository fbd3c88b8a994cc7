"""An aggregator's state directory in a temporary folder, and foreign feeds to fill it with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer.effects import Effects
from peer.home import Home
from peer.identity import Identity
from protocols.cid import CID
from protocols.feed import Bundle, Place, sign_bundle
from protocols.keys import SigningKey
from protocols.membership import AGGREGATOR, Membership
from protocols.record import Link, Record, block
from protocols.report import RECORD_KIND, Report
from protocols.roster import CERTIFICATE_KIND, chain_attributes
from tests.support.members import TestMesh, effects_of


def aggregator_home(
    path: Path, mesh: TestMesh | None = None, *roles: str, seed: int = 1
) -> tuple[Home, Identity, Effects]:
    """A home that has joined ``mesh``."""
    home = Home(path, "aggregator.toml")
    home.create()
    effects = effects_of(seed)
    identity = Identity.create(path, effects)
    membership = (mesh or TestMesh()).membership(identity.key, *(roles or (AGGREGATOR,)))
    identity.save(membership)
    return home, identity, effects


@dataclass
class Author:
    """Somebody else's feed: records in, signed bundles out."""

    key: SigningKey
    epoch: int = 1
    records: list[Record] = field(default_factory=list)
    bundles: list[Bundle] = field(default_factory=list)
    _cut: int = 0

    def add(self, kind: str, **fields: Any) -> CID:
        """Add a record, as the named fields say."""
        record = Record(
            author=self.key.public,
            nonce=len(self.records).to_bytes(8, "big"),
            kind=kind,
            start_us=1_790_000_000_000_000 + len(self.records),
            **fields,
        )
        return self._keep(record)

    def add_block(self, kind: str, **attributes: Any) -> CID:
        return self._keep(block(self.key.public, kind, attributes))

    def show(self, member: Membership) -> CID:
        """Show a certificate in its feed, as daemons do."""
        return self.add_block(CERTIFICATE_KIND, **chain_attributes(member))

    def report(self, report: Report) -> CID:
        return self.add(RECORD_KIND, attributes=report.to_attributes())

    def cut(self, at_us: int = 1_790_000_000_000_000) -> Bundle:
        """Sign what was added since the last cut."""
        previous = self.bundles[-1].cid if self.bundles else None
        encoded = [record.encode() for record in self.records[self._cut :]]
        place = Place(self.epoch, self._cut, previous)
        self.bundles.append(sign_bundle(self.key, place, encoded, at_us))
        self._cut = len(self.records)
        return self.bundles[-1]

    def _keep(self, record: Record) -> CID:
        self.records.append(record)
        return CID.of(record.encode())


@dataclass
class SignedJob:
    """The records of one job, in the feeds of its worker and its submitter."""

    worker: Author
    submitter: Author
    job_id: bytes = b"j" * 16

    def __post_init__(self) -> None:
        name = self.job_id.hex()
        self.model, self.input, self.output = (
            CID.of(f"{what} {name}".encode(), 0x55) for what in ("model", "input", "output")
        )
        self.environment = self.worker.add_block("environment", python="3.11.7")
        self.hardware = self.worker.add_block("hardware", cores=2)
        self.registered = self._link(self.worker, "model.registered", generated=self.model)
        self.submitted = self._link(self.submitter, "job.submitted", generated=self.input)
        self.run = self.worker.add(
            "job.run",
            used=((self.model, "model"), (self.input, "input")),
            generated=((self.output, "output"),),
            environment=self.environment,
            hardware=self.hardware,
            attributes={"job_id": name, "model": "minilm"},
        )
        self.accepted = self.submitter.add(
            "job.accepted",
            used=((self.output, "output"),),
            informed_by=(self.submitted, self.run),
            attributes={"job_id": name, "worker": self.worker.key.peer_id},
        )

    def _link(self, author: Author, kind: str, *, generated: CID) -> CID:
        link: Link = (generated, kind.partition(".")[0] if kind.startswith("model") else "input")
        attributes = {"job_id": self.job_id.hex()} if kind != "model.registered" else {}
        return author.add(kind, generated=(link,), attributes=attributes)
