"""The columns of the index's tables, and the longer statements over them."""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = 4  # another number in the file: it is rebuilt
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
    "bodiless": (
        ("cid", BLOB),
        ("feed", BLOB),
        ("epoch", UNSIGNED),
        ("sequence", UNSIGNED),
        ("place", SIGNED),
    ),
}
"""The columns of each table and their types."""
LISTED: Final = "SELECT from_hex(unnest(string_split(?, ',')))"
"""Blobs that came as one parameter, which ``tables.listed`` made."""
NAMED: Final = LISTED.replace("?", "$cids")
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
NAMED_IN: Final = """
    SELECT min_by(records.cid, records.sequence) FROM records LEFT JOIN bundles
    ON bundles.feed = records.feed AND bundles.epoch = records.epoch
    AND records.sequence >= bundles.first_sequence AND records.sequence < bundles.next_sequence
    WHERE records.feed = ? AND records.epoch = ? AND records.sequence >= ? AND records.sequence < ?
    GROUP BY bundles.cid LIMIT ?
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
CERTIFICATES: Final = """
    SELECT * FROM records WHERE kind = $kind AND feed IN (SELECT unnest($feeds::BLOB[]))
    QUALIFY row_number() OVER (PARTITION BY feed ORDER BY epoch DESC, sequence DESC) <= $limit
    ORDER BY feed, epoch, sequence, place
"""
BEGUN: Final = """
    (start_us >= $since OR cid IN (
        SELECT unnest([environment, hardware]) FROM records WHERE start_us >= $since))
"""
"""Records that began at or after a moment, and the environments and hardware that these name."""
PLACES: Final = f"""
    SELECT feed, epoch, sequence FROM records WHERE cid IN ({NAMED})
    UNION
    SELECT feed, epoch, sequence FROM records WHERE feed = $own AND cid IN (
        SELECT record FROM edges
        WHERE direction = 'generated' AND target IN ({NAMED}))
    ORDER BY ALL LIMIT $limit
"""
ERASE: Final = (
    "INSERT INTO bodiless SELECT cid, feed, epoch, sequence, place FROM records"
    f" WHERE cid IN ({NAMED}) AND place < $before",
    f"DELETE FROM records WHERE cid IN ({NAMED}) AND place < $before",
    f"DELETE FROM edges WHERE record IN ({NAMED})"
    " AND record NOT IN (SELECT cid FROM records WHERE place >= $before)",
)
FORGET: Final = (
    """
    DELETE FROM edges WHERE rowid IN (
        SELECT number FROM (
            SELECT rowid AS number, record, row_number() OVER equal AS nth,
                count(*) OVER (PARTITION BY record, direction, role, target) AS times
            FROM edges WHERE record IN (
                SELECT cid FROM records WHERE place >= $start AND place < $end)
            WINDOW equal AS (PARTITION BY record, direction, role, target ORDER BY rowid)
        ) AS numbered JOIN (
            SELECT cid, count(*) AS copies,
                count(*) FILTER (place < $start OR place >= $end) AS left_over
            FROM records GROUP BY cid
        ) AS copied ON cid = record
        WHERE nth * copies > times * left_over)
    """,
    *(
        f"DELETE FROM {table} WHERE place >= $start AND place < $end"
        for table in ("records", "bundles", "bodiless")
    ),
    """
    UPDATE state SET last_place = NULL, last_digest = NULL
    WHERE last_place >= $start AND last_place < $end
    """,
)
"""A record's links stand once for each of its rows, and those of the rows that stay stay."""
PAGE: Final = """
    feed = $feed AND epoch = $epoch AND sequence >= $sequence
    AND (sequence > $sequence OR place > $place)
"""
"""Within one feed, because sequences grow with the table: most of it need not be read."""
