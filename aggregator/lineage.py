"""What made an output: a bounded walk from a CID towards its origins, over the links of records.
Pure; the store is an argument.

The walk goes up: from an entity to the records that generated it, from a record to what it used, to
the records that informed it and to its environment and hardware. One step goes down: a record that
accepted the output belongs to its lineage, for it is the submitter's side of the same job. An
entity may have many generators (each worker registers the same model); the one closest to its user
is followed: the same job, else the same peer, else all of them up to a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from aggregator.errors import NotFoundError
from peer.rows import EdgeRow, RecordRow
from protocols import dagcbor
from protocols.cid import CID
from protocols.record import GENERATED, INFORMED_BY, USED

MAX_DEPTH: Final = 32  # steps; the flows that people build are shallower
MAX_RECORDS: Final = 1_000  # a closure past this is cut and says so: hubs have millions
MAX_GENERATORS: Final = 8  # of one entity, when none is closer than the others
OUTPUT: Final = "output"


class Source(Protocol):
    """Where links and records come from."""

    def records(self, cids: Iterable[bytes], /) -> list[RecordRow]:
        """Return those of these records that are here."""
        ...

    def edges_of(self, records: Iterable[bytes], /) -> list[EdgeRow]:
        """Return every link of these records."""
        ...

    def generators(self, targets: Iterable[bytes], /) -> list[EdgeRow]:
        """Return the links by which records generated these entities."""
        ...

    def users(self, targets: Iterable[bytes], /) -> list[EdgeRow]:
        """Return the links by which records used these entities."""
        ...


class Missing(NamedTuple):
    """Something that a record names and that has not arrived: ``what`` is a link's direction or an
    entity's role.
    """

    cid: bytes
    what: str
    needed_by: bytes


@dataclass(slots=True)
class Closure:
    """What the walk found, nearest first; ``is_cut`` when a limit ended it."""

    start: CID
    is_record: bool = False
    records: dict[bytes, RecordRow] = field(default_factory=dict[bytes, RecordRow])
    links: dict[bytes, list[EdgeRow]] = field(default_factory=dict[bytes, list[EdgeRow]])
    is_cut: bool = False
    _missing: dict[bytes, Missing] = field(default_factory=dict[bytes, Missing])

    @property
    def missing(self) -> list[Missing]:
        """What has not arrived, each once, as the first that was found to name it calls it."""
        return list(self._missing.values())

    def lacks(self, cid: bytes) -> bool:
        """Say whether something was found missing already."""
        return cid in self._missing

    def miss(self, wants: Iterable[Missing]) -> None:
        """Take in that these have not arrived."""
        for want in wants:
            self._missing.setdefault(want.cid, want)

    def first(self, kind: str) -> RecordRow | None:
        """Return the record of this kind that is nearest to the start."""
        return next((row for row in self.records.values() if row.kind == kind), None)

    def targets(self, record: bytes, direction: str) -> list[EdgeRow]:
        """Return a record's links of one direction."""
        return [link for link in self.links.get(record, ()) if link.direction == direction]


def trace(
    source: Source, start: CID, *, depth: int = MAX_DEPTH, limit: int = MAX_RECORDS
) -> Closure:
    """Return the lineage of an entity or a record.

    Nothing here depends on the order in which records arrived. Raises ``NotFoundError`` when no
    record is called ``start`` or names it.
    """
    closure = Closure(start)
    wanted = _first_step(source, closure)
    for _ in range(depth):
        if not wanted:
            return closure
        wanted = _step(source, closure, wanted, limit)
    closure.is_cut = closure.is_cut or bool(wanted)
    return closure


def _first_step(source: Source, closure: Closure) -> list[Missing]:
    """Return the records nearest to the start, in the form of things wanted."""
    start = closure.start
    closure.is_record = bool(source.records([start]))
    if closure.is_record:
        made = [link.target for link in source.edges_of([start]) if _is_output(link)]
        nearest = [start]
    else:
        made = [start]
        nearest = [link.record for link in source.generators([start])]
        if not nearest:
            uses = source.users([start])[:MAX_GENERATORS]
            nearest = [link.record for link in uses]
            closure.miss(Missing(start, link.role, link.record) for link in uses)
    accepted = [link.record for link in source.users(made) if link.role == OUTPUT]
    nearest = list(dict.fromkeys([*nearest, *accepted]))
    if not nearest:
        raise NotFoundError(
            f"no record names {start}",
            code="unknown-cid",
            hint="its bundle may not have arrived yet: see the heads in `covey-aggregator status`",
        )
    return [Missing(cid, "record", start) for cid in nearest]


def _is_output(link: EdgeRow) -> bool:
    return link.direction == GENERATED and link.role == OUTPUT


def _step(source: Source, closure: Closure, wanted: list[Missing], limit: int) -> list[Missing]:
    """Take in the records that are wanted and return those that they lead to."""
    found = {row.cid: row for row in source.records([want.cid for want in wanted])}
    closure.miss(want for want in wanted if want.cid not in found)
    room = limit - len(closure.records)
    arrived = [found[want.cid] for want in wanted if want.cid in found]
    closure.is_cut = closure.is_cut or len(arrived) > room
    fresh = arrived[:room]
    closure.records.update((row.cid, row) for row in fresh)
    for link in source.edges_of([row.cid for row in fresh]):
        closure.links.setdefault(link.record, []).append(link)
    return _next_wanted(source, closure, fresh)


def _next_wanted(source: Source, closure: Closure, fresh: list[RecordRow]) -> list[Missing]:
    origins = _origins(source, closure, fresh)
    wanted: dict[bytes, Missing] = {}
    for row in fresh:
        for want in (*_named_by(row, closure), *origins.get(row.cid, ())):
            if want.cid not in closure.records:
                wanted.setdefault(want.cid, want)
    return [want for want in wanted.values() if not closure.lacks(want.cid)]


def _named_by(row: RecordRow, closure: Closure) -> list[Missing]:
    """Return the records that a record names by their own CIDs."""
    named = [
        Missing(link.target, INFORMED_BY, row.cid) for link in closure.targets(row.cid, INFORMED_BY)
    ]
    if row.environment:
        named.append(Missing(row.environment, "environment", row.cid))
    if row.hardware:
        named.append(Missing(row.hardware, "hardware", row.cid))
    return named


def _origins(
    source: Source, closure: Closure, fresh: list[RecordRow]
) -> dict[bytes, list[Missing]]:
    """Return, for each record, the generators of what it used; an entity that has none is listed as
    missing.
    """
    uses = [(row, link) for row in fresh for link in closure.targets(row.cid, USED)]
    generators: dict[bytes, list[bytes]] = {}
    for link in source.generators({link.target for _, link in uses}):
        generators.setdefault(link.target, []).append(link.record)
    rows = {row.cid: row for row in source.records({c for cs in generators.values() for c in cs})}
    jobs = {row.cid: attributes_of(row).get("job_id") for row in (*rows.values(), *fresh)}
    origins: dict[bytes, list[Missing]] = {}
    for user, link in uses:
        candidates = [rows[cid] for cid in generators.get(link.target, ()) if cid in rows]
        if not candidates:
            closure.miss([Missing(link.target, link.role, user.cid)])
        chosen = closest(user, candidates, jobs)
        origins.setdefault(user.cid, []).extend(
            Missing(row.cid, link.role, user.cid) for row in chosen
        )
    return origins


def closest(
    user: RecordRow, generators: list[RecordRow], jobs: Mapping[bytes, Any]
) -> list[RecordRow]:
    """Choose which generators of an entity belong to one use of it: those of the same job, else the
    last before by the same peer, else all. ``jobs`` names the job of each record that has one.
    """
    job = jobs.get(user.cid)
    same = [each for each in generators if job and jobs.get(each.cid) == job]
    if same:
        return same[:MAX_GENERATORS]
    place = (user.epoch, user.sequence)
    own = [g for g in generators if g.feed == user.feed and (g.epoch, g.sequence) <= place]
    if own:
        return [max(own, key=lambda g: (g.epoch, g.sequence))]
    return generators[:MAX_GENERATORS]


def attributes_of(row: RecordRow) -> dict[str, Any]:
    """Return a record's attributes."""
    return dagcbor.decode_verified(row.attributes)
