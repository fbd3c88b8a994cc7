"""The aggregator's index over every record of the mesh: what lineage, groups and status are read
from.

The only importer of duckdb here. Everything blocks; ``peer.index`` calls it from one worker thread.
The file may be deleted at any time: it is made anew from the journal, with the same answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast

from peer.rows import Batch, BundleRow, EdgeRow, RecordRow
from peer.statements import LISTED
from peer.tables import IndexDamagedError, Tables, listed
from protocols.record import GENERATED, USED
from protocols.report import RECORD_KIND
from protocols.taking import TAKING_KINDS

R = TypeVar("R", bound=tuple[Any, ...])
FeedEpoch = tuple[bytes, int]

MEMORY_LIMIT: Final = "512MB"  # the index serves beside an intake and a transport in one process
THREADS: Final = 1  # a second one costs 4 of 9 CPU-us a merged record, and scans gain little

PARENTS: Final = """
        SELECT target, direction AS what, record FROM edges WHERE direction = 'informed_by'
        UNION ALL SELECT environment, 'environment', cid FROM records WHERE environment IS NOT NULL
        UNION ALL SELECT hardware, 'hardware', cid FROM records WHERE hardware IS NOT NULL
"""
MISSING: Final = f"""
    SELECT DISTINCT parent.target, parent.what, parent.record FROM ({PARENTS})
    AS parent ANTI JOIN records ON records.cid = parent.target
    WHERE parent.target NOT IN ({LISTED})
"""

NAMED: Final = f"SELECT DISTINCT target FROM ({PARENTS}) WHERE target IN ({LISTED})"
EARLIEST: Final = """
    SELECT * FROM records WHERE kind = $kind AND feed IN (SELECT unnest($feeds::BLOB[]))
    QUALIFY row_number() OVER (PARTITION BY feed ORDER BY epoch, sequence, place) <= $limit
    ORDER BY feed, epoch, sequence, place
"""

MAX_RUNS_TOLD: Final = 16  # of one entity by one author: a job is repeated a few times
TAKINGS: Final = f"""
    SELECT entity, run, min(taker) AS taker FROM (
        SELECT taken.target AS entity, taken.record AS taker, records.feed AS author,
            arg_max(informed.target, informed.rowid) AS run
        FROM edges AS taken
        JOIN records ON records.cid = taken.record
        JOIN edges AS informed ON informed.record = taken.record
        WHERE taken.target IN ({LISTED}) AND taken.direction = 'used' AND taken.role = 'output'
        AND informed.direction = 'informed_by'
        AND records.kind IN ({", ".join(f"'{kind}'" for kind in TAKING_KINDS)})
        GROUP BY ALL
    ) AS takings
    WHERE run IN ({LISTED})
    GROUP BY entity, author, run
    QUALIFY row_number() OVER (PARTITION BY entity, author ORDER BY run) <= {MAX_RUNS_TOLD}
    ORDER BY entity, run, author
"""
"""A record of a result names its run last, and rows of links keep the order of the record. Each
author is heard apart, once about each run: whatever one of them writes, the others are heard too.
"""

ONLY_IN: Final = """
    WITH gone AS (
        SELECT unnest($feeds::BLOB[]) AS feed, unnest($epochs::UBIGINT[]) AS epoch,
               unnest($firsts::UBIGINT[]) AS first, unnest($nexts::UBIGINT[]) AS next,
               unnest($places::BIGINT[]) AS place
    ), lost AS (
        SELECT records.rowid AS row, records.cid FROM records JOIN gone
        ON records.feed = gone.feed AND records.epoch = gone.epoch
        AND records.sequence >= gone.first AND records.sequence < gone.next
        AND (records.place = gone.place OR records.feed = $own)
    )
    SELECT count(DISTINCT cid) FROM lost
    WHERE cid NOT IN (SELECT cid FROM records WHERE rowid NOT IN (SELECT row FROM lost))
"""
"""Our own records lie apart from their headers, those of others at the place of their bundle."""

EXTENT: Final = "SELECT (SELECT count(*) FROM records), (SELECT count(*) FROM edges)"
RECORD_COLUMNS: Final = """
    SELECT cid, kind, feed, environment, hardware FROM records
    WHERE rowid >= ? AND rowid < ?
"""
LINK_COLUMNS: Final = """
    SELECT record, direction, role, target FROM edges
    WHERE rowid >= ? AND rowid < ?
"""


class MissingRow(NamedTuple):
    """A record that another one names and that has not arrived."""

    cid: bytes
    what: str
    needed_by: bytes


class TakingRow(NamedTuple):
    """A record by which a result was taken, and the run that it says made it."""

    entity: bytes
    run: bytes
    taker: bytes


class Extent(NamedTuple):
    """How many rows of records and of links there are: rows are only ever added."""

    records: int
    links: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What the index holds; a record at two places counts once."""

    records: int
    bundles: Mapping[FeedEpoch, int]
    """Of each feed and epoch."""
    reports: int
    missing: int


class Store:
    """An open index. Every method may raise ``IndexDamagedError``; the answer is to rebuild."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.mark = tables.mark
        self.last = tables.last
        self.rows = tables.rows
        self.lost = tables.lost
        self.named_in = tables.named_in
        self.close = tables.close
        self.records = tables.records
        self.holding = tables.holding
        self.feeds = tables.feeds
        self.page = tables.page
        self.bundles_over = tables.bundles_over
        self.places = tables.places
        self.bodiless = tables.bodiless
        self.certificates = tables.certificates
        self.unpin = tables.unpin
        self.erase = tables.erase
        self.forget = tables.forget
        self.copy_to = tables.copy_to

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open or create the index at ``path``."""
        import duckdb

        try:
            connection = duckdb.connect(
                str(path), config={"memory_limit": MEMORY_LIMIT, "threads": THREADS}
            )
        except duckdb.Error as error:
            raise IndexDamagedError(f"the index {path} cannot be opened: {error}") from error
        connection.execute("SET enable_progress_bar = false")  # it would write into our output
        return cls(Tables(connection, duckdb.Error))

    def insert(self, batch: Batch) -> None:
        """Add the rows of ``batch`` and its mark in one transaction: all of it or nothing."""
        self._tables.insert(batch)

    def records_since(self, place: int, kinds: Sequence[str]) -> list[RecordRow]:
        """Return the records of these kinds at or after a journal offset, each once, in the order
        of their feeds.
        """
        rows = self._tables.run(
            "SELECT * FROM records WHERE place >= ? AND list_contains(?, kind)"
            " ORDER BY feed, epoch, sequence, place",
            place,
            list(kinds),
        )
        return _each_once(RecordRow._make(row) for row in rows)

    def has_news(self, place: int, apart_from: Sequence[str]) -> bool:
        """Say whether anything came behind a journal offset but records of these kinds."""
        return bool(
            self._tables.run(
                "SELECT 1 FROM records WHERE place > ? AND NOT list_contains(?, kind)"
                " UNION ALL SELECT 1 FROM bodiless WHERE place > ? LIMIT 1",
                place,
                list(apart_from),
                place,
            )
        )

    def edges_of(self, records: Iterable[bytes]) -> list[EdgeRow]:
        """Return every link of these records, each once."""
        return self._select(EdgeRow, "edges", "record", records, "record, direction, role, target")

    def generators(self, targets: Iterable[bytes]) -> list[EdgeRow]:
        """Return the links by which records generated these entities, each once."""
        return self._links_to(GENERATED, targets)

    def users(self, targets: Iterable[bytes]) -> list[EdgeRow]:
        """Return the links by which records used these entities, each once."""
        return self._links_to(USED, targets)

    def takings(self, entities: Iterable[bytes], runs: Iterable[bytes]) -> list[TakingRow]:
        """Return who says to have taken these entities as outputs of some of these runs: of each
        author one record about each, and of an entity at most ``MAX_RUNS_TOLD``.
        """
        rows = self._tables.run(TAKINGS, listed(entities), listed(runs))
        return [TakingRow._make(row) for row in rows]

    def missing(self, limit: int, redacted: Iterable[bytes] = ()) -> list[MissingRow]:
        """Return records that others name and that have not arrived, at most ``limit``; those that
        were ``redacted`` are not missed.
        """
        known = listed(redacted)
        rows = self._tables.run(f"{MISSING} ORDER BY ALL LIMIT ?", known, limit)
        return [MissingRow._make(row) for row in rows]

    def counts(self, redacted: Iterable[bytes] = ()) -> Counts:
        """Return how much the index holds."""
        known = listed(redacted)
        [(records, reports)] = self._tables.run(
            "SELECT count(DISTINCT cid), count(DISTINCT cid) FILTER (kind = ?) FROM records",
            RECORD_KIND,
        )
        bundles = {
            (feed, epoch): count
            for feed, epoch, count in self._tables.run(
                "SELECT feed, epoch, count(DISTINCT cid) FROM bundles GROUP BY feed, epoch"
            )
        }
        [(missing,)] = self._tables.run(f"SELECT count(DISTINCT target) FROM ({MISSING})", known)
        return Counts(records, bundles, reports, missing)

    def bundles_of(self, feed: bytes, epoch: int) -> list[BundleRow]:
        """Return every bundle of one feed's epoch, at each place where it was kept."""
        rows = self._tables.run("SELECT * FROM bundles WHERE feed = ? AND epoch = ?", feed, epoch)
        return [BundleRow._make(row) for row in rows]

    def records_only_in(self, bundles: Sequence[BundleRow], own: bytes) -> int:
        """Return how many records stand in these bundles and nowhere else; ``own`` is the feed
        whose journal this is.
        """
        _, feeds, epochs, firsts, nexts, places = zip(*bundles, strict=True)
        columns = {"feeds": feeds, "epochs": epochs, "firsts": firsts, "nexts": nexts}
        named = {name: list(column) for name, column in {**columns, "places": places}.items()}
        [(count,)] = self._tables.run_named(ONLY_IN, {**named, "own": own})
        return count

    def kinds_in(self, feed: bytes, epoch: int, first: int, end: int) -> list[tuple[str, int]]:
        """Return of which kinds the records are in a range of a feed, and how many of each."""
        rows = self._tables.run(
            "SELECT kind, count(DISTINCT cid) FROM records WHERE feed = ? AND epoch = ?"
            " AND sequence >= ? AND sequence < ? GROUP BY kind ORDER BY kind",
            feed,
            epoch,
            first,
            end,
        )
        return [(kind, count) for kind, count in rows]

    def records_in(self, feed: bytes, epoch: int, first: int, end: int) -> list[tuple[int, bytes]]:
        """Return (sequence, CID) of the records in a range of a feed, in order."""
        rows = self._tables.run(
            "SELECT DISTINCT sequence, cid FROM records WHERE feed = ? AND epoch = ?"
            " AND sequence >= ? AND sequence < ? ORDER BY ALL",
            feed,
            epoch,
            first,
            end,
        )
        return [(sequence, cid) for sequence, cid in rows]

    def named(self, cids: Iterable[bytes]) -> set[bytes]:
        """Return which of these records others name, so that they would be ``missing``."""
        return {cid for (cid,) in self._tables.run(NAMED, listed(cids))}

    def earliest(self, kind: str, feeds: Iterable[bytes], limit: int) -> list[RecordRow]:
        """Return the records of a kind in these feeds, of each feed the first ``limit``, each
        once.
        """
        named = {"kind": kind, "feeds": list(feeds), "limit": limit}
        return _each_once(RecordRow._make(row) for row in self._tables.run_named(EARLIEST, named))

    def extent(self) -> Extent:
        """Return how many rows there are."""
        return Extent(*self._tables.run(EXTENT)[0])

    def columns(self, first: Extent, last: Extent) -> tuple[Any, Any]:
        """Return the rows from ``first`` up to ``last`` in the order of their arrival, as Arrow
        tables of records and of links.
        """
        return (
            self._tables.columns(RECORD_COLUMNS, first.records, last.records),
            self._tables.columns(LINK_COLUMNS, first.links, last.links),
        )

    def _links_to(self, direction: str, targets: Iterable[bytes]) -> list[EdgeRow]:
        rows = self._select(EdgeRow, "edges", "target", targets, "record, role, target")
        return [row for row in rows if row.direction == direction]

    def _select(
        self, row: type[R], table: str, column: str, values: Iterable[bytes], order: str
    ) -> list[R]:
        found = self._tables.run(
            f"SELECT * FROM {table} WHERE {column} IN ({LISTED}) ORDER BY {order}",
            listed(values),
        )
        make = cast("Any", row)._make
        return _each_once(make(values) for values in found)


def _each_once(rows: Iterable[R]) -> list[R]:
    """Keep the first of what stands at several places: rows of a record share its CID, links are
    equal altogether.
    """
    first: dict[Any, R] = {}
    for row in rows:
        first.setdefault(row[0] if isinstance(row, RecordRow) else row, row)
    return list(first.values())
