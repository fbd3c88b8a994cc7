"""The tables of an index that follows the journal, over a DuckDB connection that a ``store.py``
opened.

Everything blocks; ``peer.index`` calls it from one worker thread. Rows and the journal offset up to
which they account are written in one transaction, so a crash between journal and index leaves
nothing twice and nothing out. There is no primary key: DuckDB's costs more with every million rows,
and the feeds refuse duplicates before the journal.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from peer.rows import Batch, BundleRow, DroppedRow, LastEntry, RecordRow
from protocols.errors import CoveyError

SCHEMA_VERSION: Final = 4  # another number in the file: it is rebuilt
IN_MEMORY: Final = Path(":memory:")

BLOB, TEXT, UNSIGNED, SIGNED = "BLOB", "VARCHAR", "UBIGINT", "BIGINT"
TABLES: Final = {
    "records": (
        ("cid", BLOB),
        ("feed", BLOB),
        ("epoch", UNSIGNED),
        ("sequence", UNSIGNED),
        ("kind", TEXT),
        ("start_us", SIGNED),
        ("duration_us", SIGNED),
        ("status", TEXT),
        ("environment", BLOB),
        ("hardware", BLOB),
        ("attributes", BLOB),
        ("place", SIGNED),
    ),
    "edges": (("record", BLOB), ("direction", TEXT), ("role", TEXT), ("target", BLOB)),
    "bundles": (
        ("cid", BLOB),
        ("feed", BLOB),
        ("epoch", UNSIGNED),
        ("first_sequence", UNSIGNED),
        ("next_sequence", UNSIGNED),
        ("place", SIGNED),
    ),
}
"""The columns of each table and their types."""
STATE: Final = """
    CREATE TABLE IF NOT EXISTS state
    (schema_version INTEGER, mark BIGINT, last_place BIGINT, last_digest BLOB)
"""
GONE: Final = """
    CREATE TABLE IF NOT EXISTS dropped
    (feed BLOB, epoch UBIGINT, next_sequence UBIGINT, aggregator BLOB)
"""
DROP_EDGES: Final = """
    DELETE FROM edges WHERE record IN (
        SELECT cid FROM records WHERE feed = $1 AND epoch = $2 AND sequence < $3
        EXCEPT SELECT cid FROM records WHERE NOT (feed = $1 AND epoch = $2 AND sequence < $3))
"""
LOST: Final = """
    SELECT feed, epoch, min(first), max(next) FROM (
        SELECT cid, feed, epoch, sequence AS first, sequence + 1 AS next, place FROM records
        UNION ALL SELECT cid, feed, epoch, first_sequence, next_sequence, place FROM bundles
    ) AS lost
    WHERE place >= $1 AND place < $2
    AND cid NOT IN (SELECT cid FROM records WHERE place < $1 OR place >= $2)
    AND cid NOT IN (SELECT cid FROM bundles WHERE place < $1 OR place >= $2)
    GROUP BY feed, epoch ORDER BY feed, epoch
"""
MOVE: Final = """
    UPDATE records SET epoch = ?, sequence = sequence - ?
    WHERE feed = ? AND epoch = ? AND sequence >= ? AND NOT EXISTS (
        SELECT 1 FROM bundles
        WHERE bundles.feed = records.feed AND bundles.epoch = records.epoch
        AND records.sequence >= bundles.first_sequence AND records.sequence < bundles.next_sequence
        AND (bundles.place = records.place
             OR NOT EXISTS (SELECT 1 FROM records AS carried WHERE carried.place = bundles.place)))
"""
"""Uncut records move, and no others. A bundle that came whole (our own, forgotten and given back)
covers only the rows that came with it: an uncut record of ours may claim the same place."""
BEGUN: Final = """
    (start_us >= $since OR cid IN (
        SELECT unnest([environment, hardware]) FROM records WHERE start_us >= $since))
"""
"""Records that began at or after a moment, and the environments and hardware that these name."""
PAGE: Final = """
    feed = $feed AND epoch = $epoch AND sequence >= $sequence
    AND (sequence > $sequence OR place > $place)
"""
"""Within one feed, because sequences grow with the table: most of it need not be read."""


class Cursor(NamedTuple):
    """A row's place in the order of feeds; without the last two, in front of all of its feed."""

    feed: bytes
    epoch: int
    sequence: int = 0
    place: int = -1


class Lost(NamedTuple):
    """Records ``[first_sequence, next_sequence)`` of a feed, some of which lie in a damaged part of
    the journal and nowhere else.
    """

    feed: bytes
    epoch: int
    first_sequence: int
    next_sequence: int


class Rows(NamedTuple):
    """How many rows the tables hold for the journal up to ``mark``."""

    mark: int
    records: int
    edges: int
    bundles: int


class IndexDamagedError(CoveyError):
    """The index cannot be used; the journal has everything, so the answer to this is to rebuild."""

    default_code = "index-damaged"


class Tables:
    """The tables and their mark. Every method may raise ``IndexDamagedError``."""

    def __init__(self, connection: Any, fault: type[Exception]) -> None:
        """Take over an open ``connection`` whose faults are of type ``fault``."""
        self._connection = connection
        self._fault = fault
        try:
            self._create()
        except IndexDamagedError:
            self.close()
            raise

    def close(self) -> None:
        """Release the file; the tables may not be used after."""
        self._connection.close()

    def _create(self) -> None:
        self.run(STATE)
        self.run(GONE)
        if (found := self.run("SELECT schema_version FROM state")) == [(SCHEMA_VERSION,)]:
            return
        if found:
            raise IndexDamagedError(f"the index has version {found}, not {SCHEMA_VERSION}")
        self.run("BEGIN")
        for table, columns in TABLES.items():
            described = ", ".join(f"{name} {kind}" for name, kind in columns)
            self.run(f"CREATE TABLE {table} ({described})")
        self.run("INSERT INTO state VALUES (?, 0, NULL, NULL)", SCHEMA_VERSION)
        self.run("COMMIT")

    def mark(self) -> int:
        """Return the journal offset up to which the index accounts for everything."""
        return self.run("SELECT mark FROM state")[0][0]

    def last(self) -> LastEntry | None:
        """Return the last journal entry in front of the mark, if there was any."""
        place, digest = self.run("SELECT last_place, last_digest FROM state")[0]
        return None if place is None else LastEntry(place, digest)

    def rows(self) -> Rows:
        """Return how many rows there are, and up to which journal offset they account."""
        counts = [self.run(f"SELECT count(*) FROM {name}")[0][0] for name in TABLES]
        return Rows(self.mark(), *counts)

    def lost(self, start: int, end: int) -> list[Lost]:
        """Return what the journal held between these offsets and nowhere else."""
        return [Lost._make(row) for row in self.run(LOST, start, end)]

    def feeds(self, since_us: int) -> list[Cursor]:
        """Return where every feed begins that has records since a moment, in order."""
        where, parameters = (f"WHERE {BEGUN}", {"since": since_us}) if since_us else ("", {})
        rows = self.run_named(
            f"SELECT DISTINCT feed, epoch FROM records {where} ORDER BY feed, epoch", parameters
        )
        return [Cursor(feed, epoch) for feed, epoch in rows]

    def page(self, after: Cursor, since_us: int, limit: int) -> list[RecordRow]:
        """Return the next rows of that feed and epoch that began at or after a moment, and of the
        environments and hardware that such rows of any feed name.
        """
        where, parameters = (f"{PAGE} AND {BEGUN}", {"since": since_us}) if since_us else (PAGE, {})
        rows = self.run_named(
            f"SELECT * FROM records WHERE {where} ORDER BY sequence, place LIMIT {limit}",
            {**after._asdict(), **parameters},
        )
        return [RecordRow._make(row) for row in rows]

    def records(self, cids: Iterable[bytes]) -> list[RecordRow]:
        """Return the rows of these records, each once, in the order of their feeds."""
        found = self.run(
            "SELECT * FROM records WHERE cid IN (SELECT unnest(?::BLOB[]))"
            " ORDER BY feed, epoch, sequence, place",
            [bytes(cid) for cid in cids],
        )
        first: dict[bytes, RecordRow] = {}
        for row in found:
            first.setdefault(row[0], RecordRow._make(row))
        return list(first.values())

    def bundles_over(self, feed: bytes, epoch: int, sequence: int) -> list[BundleRow]:
        """Return the bundles whose range covers one place of a feed: more than one is a fork."""
        rows = self.run(
            "SELECT * FROM bundles WHERE feed = ? AND epoch = ? AND first_sequence <= ?"
            " AND next_sequence > ? ORDER BY place",
            feed,
            epoch,
            sequence,
            sequence,
        )
        return [BundleRow._make(row) for row in rows]

    def insert(self, batch: Batch) -> None:
        """Add the rows of ``batch`` and its mark in one transaction: all of it or nothing."""
        self.run("BEGIN")
        try:
            for feed, new_epoch, old_epoch, first in batch.moves:
                self.run(MOVE, new_epoch, first, feed, old_epoch, first)
            for row in batch.dropped:
                self._drop(row)
            self._append("records", batch.records)
            self._append("edges", batch.edges)
            self._append("bundles", batch.bundles)
            self.run("UPDATE state SET mark = ?", batch.mark)
            if batch.last is not None:
                self.run("UPDATE state SET last_place = ?, last_digest = ?", *batch.last)
            self.run("COMMIT")
        except BaseException:
            with suppress(self._fault):  # already gone: the error that led here says why
                self._connection.rollback()
            raise

    def _drop(self, row: DroppedRow) -> None:
        place = row[:3]
        self.run(DROP_EDGES, *place)
        self.run("DELETE FROM records WHERE feed = ? AND epoch = ? AND sequence < ?", *place)
        self.run("DELETE FROM bundles WHERE feed = ? AND epoch = ? AND next_sequence <= ?", *place)
        self.run("DELETE FROM dropped WHERE feed = ? AND epoch = ?", row.feed, row.epoch)
        self.run("INSERT INTO dropped VALUES (?, ?, ?, ?)", *row)

    def dropped(self) -> list[DroppedRow]:
        """Return what is not held any more, in the order of feeds."""
        return [DroppedRow._make(row) for row in self.run("SELECT * FROM dropped ORDER BY ALL")]

    def _append(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        schema = _schemas()[table]
        columns = [
            _arrow().array(values, column.type)
            for values, column in zip(zip(*rows, strict=True), schema, strict=True)
        ]
        self._connection.register("arriving", _arrow().Table.from_arrays(columns, schema=schema))
        try:
            self.run(f"INSERT INTO {table} SELECT * FROM arriving")
        finally:
            self._connection.unregister("arriving")

    def run(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        return self._run(sql, parameters)

    def run_named(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Run one statement whose parameters have names, and return its rows."""
        return self._run(sql, parameters)

    def _run(self, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except self._fault as error:
            raise IndexDamagedError(f"the index failed: {error}") from error

    def columns(self, sql: str, *parameters: Any) -> Any:
        """Run one statement and return its rows as an Arrow table, each column in one piece."""
        try:
            return self._connection.execute(sql, parameters).to_arrow_table().combine_chunks()
        except self._fault as error:
            raise IndexDamagedError(f"the index failed: {error}") from error


def _arrow() -> Any:
    """Load pyarrow when there are rows: it takes 40 MB, and an idle daemon has none."""
    import pyarrow

    return pyarrow  # its stubs leave most types unknown


@cache
def _schemas() -> dict[str, Any]:
    pa = _arrow()
    types = {BLOB: pa.binary(), TEXT: pa.string(), UNSIGNED: pa.uint64(), SIGNED: pa.int64()}
    return {
        table: pa.schema([(name, types[kind]) for name, kind in columns])
        for table, columns in TABLES.items()
    }


def discard(path: Path) -> None:
    """Delete the index and its write-ahead log; nothing is lost that the journal lacks."""
    if path == IN_MEMORY:
        return
    for file in (path, path.with_name(path.name + ".wal")):
        file.unlink(missing_ok=True)


def is_held_elsewhere(path: Path) -> bool:
    """Tell whether another process has the index open (DuckDB's shell, say), in which case it may
    not be deleted.
    """
    try:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
