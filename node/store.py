"""The node's index over its records: one DuckDB file that may be deleted at any time. The only
importer of duckdb here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from peer.rows import Batch, BodilessRow, RecordRow
from peer.tables import IndexDamagedError, Tables

THREADS: Final = 1  # a node's own records are few, and its jobs need the cores


class Store:
    """An open index. Everything blocks; every method may raise ``IndexDamagedError``."""

    def __init__(self, tables: Tables, own: bytes) -> None:
        self._tables = tables
        self.own = own
        self.mark = tables.mark
        self.last = tables.last
        self.rows = tables.rows
        self.lost = tables.lost
        self.remembers = tables.remembers
        self.named_in = tables.named_in
        self.close = tables.close
        self.feeds = tables.feeds
        self.page = tables.page
        self.records = tables.records
        self.holding = tables.holding
        self.bundles_over = tables.bundles_over
        self.places = tables.places
        self.bodiless = tables.bodiless
        self.certificates = tables.certificates
        self.unpin = tables.unpin
        self.erase = tables.erase
        self.forget = tables.forget
        self.copy_to = tables.copy_to
        self.dropped = tables.dropped

    @classmethod
    def open(cls, path: Path, memory_mb: int, own: bytes) -> Store:
        """Open or create the index at ``path`` of the node whose feed is ``own``. Loads the
        database's code when first called: it takes 60 MB.
        """
        import duckdb

        try:
            connection = duckdb.connect(
                str(path), config={"memory_limit": f"{memory_mb}MB", "threads": THREADS}
            )
        except duckdb.Error as error:
            raise IndexDamagedError(f"the index {path} cannot be opened: {error}") from error
        return cls(Tables(connection, duckdb.Error), own)

    def insert(self, batch: Batch) -> None:
        """Add the rows of ``batch`` and its mark in one transaction."""
        self._tables.insert(batch)

    def newest(self, kind: str | None, limit: int) -> list[RecordRow]:
        """Return the newest records of our own feed, of one kind if named, in the order in which
        they were journalled. Those of workers that are kept beside it are found by their names.
        """
        where, parameters = ("AND kind = ?", [kind]) if kind else ("", [])
        sql = f"""
            SELECT * FROM records WHERE feed = ? {where}
            ORDER BY place DESC, sequence DESC LIMIT ?
        """
        rows = self._tables.run(sql, self.own, *parameters, limit)
        return [RecordRow._make(row) for row in rows]

    def newest_bodiless(self, limit: int) -> list[BodilessRow]:
        """Return the records of our own feed of which only the places are left, each once, in the
        order of ``newest``.
        """
        rows = self._tables.run(
            "SELECT * FROM bodiless ANTI JOIN records USING (cid) WHERE feed = ?"
            " QUALIFY row_number() OVER (PARTITION BY cid ORDER BY place DESC, sequence DESC) = 1"
            " ORDER BY place DESC, sequence DESC LIMIT ?",
            self.own,
            limit,
        )
        return [BodilessRow._make(row) for row in rows]

    def record(self, cid: bytes) -> RecordRow | None:
        """Return one record, as it came last."""
        rows = self._tables.run(
            "SELECT * FROM records WHERE cid = ? ORDER BY place DESC LIMIT 1", cid
        )
        return RecordRow._make(rows[0]) if rows else None

    def links(self, cid: bytes) -> list[tuple[Any, ...]]:
        """Return the links of a record as (direction, role, target)."""
        return self._tables.run(
            "SELECT DISTINCT direction, role, target FROM edges WHERE record = ? ORDER BY ALL", cid
        )
