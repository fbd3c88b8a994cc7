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

from peer import statements as sql
from peer.rows import Batch, BodilessRow, BundleRow, DroppedRow, LastEntry, RecordRow
from protocols.errors import CoveyError
from protocols.limits import MAX_SHOWN_CERTIFICATES
from protocols.roster import CERTIFICATE_KIND

IN_MEMORY: Final = Path(":memory:")


class Cursor(NamedTuple):
    """A row's place in the order of feeds; without the last two, in front of all of its feed."""

    feed: bytes
    epoch: int
    sequence: int = 0
    place: int = -1


class RecordPlace(NamedTuple):
    """Where a record stands."""

    feed: bytes
    epoch: int
    sequence: int


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
    bodiless: int


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
        self.run(sql.STATE)
        self.run(sql.GONE)
        if (found := self.run("SELECT schema_version FROM state")) == [(sql.SCHEMA_VERSION,)]:
            return
        if found:
            raise IndexDamagedError(f"the index has version {found}, not {sql.SCHEMA_VERSION}")
        self.run("BEGIN")
        for table, columns in sql.TABLES.items():
            described = ", ".join(f"{name} {kind}" for name, kind in columns)
            self.run(f"CREATE TABLE {table} ({described})")
        self.run("INSERT INTO state VALUES (?, 0, NULL, NULL)", sql.SCHEMA_VERSION)
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
        counts = [self.run(f"SELECT count(*) FROM {name}")[0][0] for name in sql.TABLES]
        return Rows(self.mark(), *counts)

    def lost(self, start: int, end: int) -> list[Lost]:
        """Return what the journal held between these offsets and nowhere else."""
        return [Lost._make(row) for row in self.run(sql.LOST, start, end)]

    def remembers(self, start: int, end: int) -> bool:
        """Say whether a row knows what the journal held between these offsets."""
        asked = " UNION ALL ".join(
            f"SELECT 1 FROM {name} WHERE place >= $start AND place < $end"
            for name in ("records", "bundles", "bodiless")
        )
        return bool(self.run_named(f"{asked} LIMIT 1", {"start": start, "end": end}))

    def named_in(self, lost: Lost, limit: int) -> list[bytes]:
        """Return the name of one record of each bundle in such a range."""
        return [cid for (cid,) in self.run(sql.NAMED_IN, *lost, limit)]

    def feeds(self, since_us: int) -> list[Cursor]:
        """Return where every feed begins that has records since a moment, in order."""
        where, parameters = (f"WHERE {sql.BEGUN}", {"since": since_us}) if since_us else ("", {})
        rows = self.run_named(
            f"SELECT DISTINCT feed, epoch FROM records {where} ORDER BY feed, epoch", parameters
        )
        return [Cursor(feed, epoch) for feed, epoch in rows]

    def page(self, after: Cursor, since_us: int, limit: int) -> list[RecordRow]:
        """Return the next rows of that feed and epoch that began at or after a moment, and of the
        environments and hardware that such rows of any feed name.
        """
        where, parameters = (
            (f"{sql.PAGE} AND {sql.BEGUN}", {"since": since_us}) if since_us else (sql.PAGE, {})
        )
        rows = self.run_named(
            f"SELECT * FROM records WHERE {where} ORDER BY sequence, place LIMIT {limit}",
            {**after._asdict(), **parameters},
        )
        return [RecordRow._make(row) for row in rows]

    def records(self, cids: Iterable[bytes]) -> list[RecordRow]:
        """Return the rows of these records, each once, in the order of their feeds.

        What is at several places came again because the disk had damaged it: the latest one holds.
        """
        found = self.run(
            f"SELECT * FROM records WHERE cid IN ({sql.LISTED})"
            " ORDER BY feed, epoch, sequence, place DESC",
            listed(cids),
        )
        first: dict[bytes, RecordRow] = {}
        for row in found:
            first.setdefault(row[0], RecordRow._make(row))
        return list(first.values())

    def holding(self, cids: Iterable[bytes], own: bytes, limit: int) -> list[RecordPlace]:
        """Return where these records stand, and the records of the feed ``own`` that made something
        of these names.
        """
        named = {"cids": listed(cids), "own": own, "limit": limit}
        return [RecordPlace._make(row) for row in self.run_named(sql.PLACES, named)]

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

    def places(self, cids: Iterable[bytes]) -> list[RecordRow]:
        """Return the rows of these records, one for each place at which a body stands."""
        rows = self.run(
            f"SELECT * FROM records WHERE cid IN ({sql.LISTED}) ORDER BY place",
            listed(cids),
        )
        return [RecordRow._make(row) for row in rows]

    def bodiless(self, cids: Iterable[bytes]) -> list[BodilessRow]:
        """Return the places at which headers name these records and no body stands."""
        rows = self.run(
            f"SELECT * FROM bodiless WHERE cid IN ({sql.LISTED})"
            " ORDER BY feed, epoch, sequence, place",
            listed(cids),
        )
        return [BodilessRow._make(row) for row in rows]

    def certificates(self, feeds: Iterable[bytes]) -> list[RecordRow]:
        """Return the records by which these feeds show their members' certificates, the newest
        ``MAX_SHOWN_CERTIFICATES`` of each, in the order of the feeds.
        """
        named = {"feeds": list(feeds), "kind": CERTIFICATE_KIND, "limit": MAX_SHOWN_CERTIFICATES}
        found = [RecordRow._make(row) for row in self.run_named(sql.CERTIFICATES, named)]
        return list({row.cid: row for row in found}.values())

    def unpin(self, places: Iterable[int]) -> None:
        """Do not know the journal by its last entry any more, if that is at one of ``places``: its
        body is about to change.
        """
        self.run(
            "UPDATE state SET last_place = NULL, last_digest = NULL"
            " WHERE last_place IN (SELECT try_cast(unnest(string_split(?, ',')) AS BIGINT))",
            ",".join(map(str, places)),
        )

    def erase(self, cids: Iterable[bytes], before: int) -> None:
        """Leave of these records only where they stood before an offset of the journal, in one
        transaction. Their bytes may stay in the file until ``copy_to`` has made another.
        """
        self._run_all(sql.ERASE, {"cids": listed(cids), "before": before})

    def forget(self, start: int, end: int) -> None:
        """Delete what the journal held between two offsets, in one transaction."""
        self._run_all(sql.FORGET, {"start": start, "end": end})

    def _run_all(self, statements: Iterable[str], parameters: dict[str, Any]) -> None:
        self.run("BEGIN")
        try:
            for statement in statements:
                used = {
                    name: value for name, value in parameters.items() if f"${name}" in statement
                }
                self.run_named(statement, used)
            self.run("COMMIT")
        except BaseException:
            with suppress(self._fault):
                self._connection.rollback()
            raise

    def copy_to(self, path: Path) -> None:
        """Write what the tables hold to a new file, in which nothing is left of what was
        deleted.
        """
        [(name,)] = self.run("SELECT current_database()")
        quoted = str(path).replace("'", "''")
        self.run(f"ATTACH '{quoted}' AS fresh")
        self.run(f'COPY FROM DATABASE "{name}" TO fresh')
        self.run("DETACH fresh")

    def insert(self, batch: Batch) -> None:
        """Add the rows of ``batch`` and its mark in one transaction: all of it or nothing."""
        self.run("BEGIN")
        try:
            for feed, new_epoch, old_epoch, first in batch.moves:
                self.run(sql.MOVE, new_epoch, first, feed, old_epoch, first)
            for row in batch.dropped:
                self._drop(row)
            self._append("records", batch.records)
            self._append("edges", batch.edges)
            self._append("bundles", batch.bundles)
            self._append("bodiless", batch.bodiless)
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
        self.run(sql.DROP_EDGES, *place)
        self.run("DELETE FROM records WHERE feed = ? AND epoch = ? AND sequence < ?", *place)
        self.run("DELETE FROM bodiless WHERE feed = ? AND epoch = ? AND sequence < ?", *place)
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


def listed(values: Iterable[bytes]) -> str:
    """Return blobs as one parameter that ``string_split`` takes apart: DuckDB needs 0.1 ms for each
    element of a list, and 10 ms for 10,000 that come as one text.
    """
    return ",".join(bytes(value).hex() for value in values)


def _arrow() -> Any:
    """Load pyarrow when there are rows: it takes 40 MB, and an idle daemon has none."""
    import pyarrow

    return pyarrow  # its stubs leave most types unknown


@cache
def _schemas() -> dict[str, Any]:
    pa = _arrow()
    types = {
        sql.BLOB: pa.binary(),
        sql.TEXT: pa.string(),
        sql.UNSIGNED: pa.uint64(),
        sql.SIGNED: pa.int64(),
    }
    return {
        table: pa.schema([(name, types[kind]) for name, kind in columns])
        for table, columns in sql.TABLES.items()
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
