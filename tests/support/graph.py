"""Records and links held in plain lists: the simplest thing that a lineage can be traced over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peer.rows import Batch, EdgeRow, RecordRow
from protocols import dagcbor
from protocols.cid import CID
from protocols.keys import peer_id_of
from protocols.record import GENERATED, INFORMED_BY, USED

Links = dict[str, CID]


def entity(name: str) -> CID:
    """The CID of some content."""
    return CID.of(name.encode(), codec=0x55)


class Graph:
    """A ``lineage.Source`` over lists; rows may be taken out again as a ``Batch`` for a store."""

    def __init__(self) -> None:
        self.rows: list[RecordRow] = []
        self.links: list[EdgeRow] = []

    def record(
        self,
        kind: str,
        feed: bytes,
        *,
        used: Links | None = None,
        generated: Links | None = None,
        informed_by: Iterable[CID] = (),
        blocks: tuple[CID | None, CID | None] = (None, None),
        **attributes: Any,
    ) -> CID:
        """Add a record; links are given as ``role=CID``, blocks as environment and hardware."""
        sequence = sum(row.feed == feed for row in self.rows)
        cid = entity(f"{kind} {feed.hex()} {sequence}")
        self.rows.append(
            RecordRow(
                cid, feed, 1, sequence, kind, 1_000 * sequence, 10, "ok", *blocks,
                dagcbor.encode(attributes), len(self.rows),
            )
        )  # fmt: skip
        self.links += [EdgeRow(cid, USED, role, target) for role, target in (used or {}).items()]
        self.links += [
            EdgeRow(cid, GENERATED, role, target) for role, target in (generated or {}).items()
        ]
        self.links += [EdgeRow(cid, INFORMED_BY, "", target) for target in informed_by]
        return cid

    def without(self, *cids: CID) -> Graph:
        """The same graph before these records arrived."""
        left = Graph()
        left.rows = [row for row in self.rows if row.cid not in cids]
        left.links = [link for link in self.links if link.record not in cids]
        return left

    def batch(self, mark: int = 1) -> Batch:
        """Everything as one transaction."""
        return Batch(mark, list(self.rows), list(self.links))

    def records(self, cids: Iterable[bytes]) -> list[RecordRow]:
        wanted = set(cids)
        found = [row for row in self.rows if row.cid in wanted]
        return sorted(found, key=lambda row: (row.feed, row.epoch, row.sequence))

    def edges_of(self, records: Iterable[bytes]) -> list[EdgeRow]:
        wanted = set(records)
        return sorted(link for link in self.links if link.record in wanted)

    def generators(self, targets: Iterable[bytes]) -> list[EdgeRow]:
        return self._links_to(GENERATED, targets)

    def users(self, targets: Iterable[bytes]) -> list[EdgeRow]:
        return self._links_to(USED, targets)

    def _links_to(self, direction: str, targets: Iterable[bytes]) -> list[EdgeRow]:
        wanted = set(targets)
        found = [x for x in self.links if x.target in wanted and x.direction == direction]
        return sorted(found, key=lambda link: (link.record, link.role, link.target))


WORKER, OTHER, SUBMITTER = b"w" * 32, b"o" * 32, b"s" * 32


class OneJob:
    """The records of both peers of one job, as they stand in two feeds."""

    def __init__(self, graph: Graph, job_id: bytes = b"j" * 16) -> None:
        name = job_id.hex()
        self.graph = graph
        self.model = entity("MiniLM")
        self.input, self.output = entity(f"input {name}"), entity(f"output {name}")
        self.environment = graph.record("environment", WORKER, python="3.11.7", torch="2.13.0")
        self.hardware = graph.record("hardware", WORKER, cpu="some cpu", cores=2)
        self.registered = graph.record(
            "model.registered", WORKER, generated={"model": self.model}, name="minilm"
        )
        self.submitted = graph.record(
            "job.submitted", SUBMITTER, generated={"input": self.input}, job_id=job_id
        )
        self.run = graph.record(
            "job.run",
            WORKER,
            used={"model": self.model, "input": self.input},
            generated={"output": self.output},
            blocks=(self.environment, self.hardware),
            job_id=job_id,
            model="minilm",
            items=3,
            submitter=peer_id_of(SUBMITTER),
        )
        self.accepted = graph.record(
            "job.accepted",
            SUBMITTER,
            used={"output": self.output},
            informed_by=(self.submitted, self.run),
            job_id=job_id,
            worker=peer_id_of(WORKER),
        )

    @property
    def records(self) -> set[CID]:
        return {
            self.environment, self.hardware, self.registered, self.submitted, self.run,
            self.accepted,
        }  # fmt: skip
