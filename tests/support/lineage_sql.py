"""The recursive queries that say what a lineage is: slow, plain, and the judge of the fast one."""

from __future__ import annotations

from typing import Final

from aggregator.store import Store
from protocols.record import GENERATED

LINKS: Final = f"""
    links(below, above) AS MATERIALIZED (
        SELECT record, target FROM edges WHERE direction <> '{GENERATED}'
        UNION SELECT target, record FROM edges WHERE direction = '{GENERATED}'
        UNION SELECT cid, environment FROM records WHERE environment IS NOT NULL
        UNION SELECT cid, hardware FROM records WHERE hardware IS NOT NULL
    )
"""
AROUND: Final = """
    WITH RECURSIVE {links}, walk(node, depth) AS (
        {start}
        UNION SELECT links.{to}, depth + 1 FROM walk JOIN links ON links.{by} = node
        WHERE depth < $2
    )
    SELECT node, min(depth) FROM walk GROUP BY node
"""
OUTPUTS: Final = f"""
    SELECT DISTINCT target FROM edges WHERE direction = '{GENERATED}' AND role = 'output'
    AND target NOT IN (SELECT cid FROM records)
    AND target NOT IN (SELECT target FROM edges WHERE direction = 'informed_by')
    AND target NOT IN (SELECT environment FROM records WHERE environment IS NOT NULL)
    AND target NOT IN (SELECT hardware FROM records WHERE hardware IS NOT NULL)
"""
PATHS: Final = f"""
    WITH RECURSIVE {LINKS}, way(nodes) AS (
        SELECT [$1::BLOB]
        UNION SELECT list_append(nodes, above) FROM way JOIN links ON below = nodes[-1]
        WHERE len(nodes) <= $2 AND NOT list_contains(nodes, above) AND nodes[-1] <> $3::BLOB
    )
    SELECT nodes FROM way WHERE nodes[-1] = $3::BLOB
"""


def around(store: Store, cid: bytes, *, leads_up: bool, depth: int) -> dict[bytes, int]:
    """Return every node around a CID, and how many links away it is."""
    found = _around(store, "SELECT $1::BLOB, 0", cid, leads_up, depth)
    del found[cid]
    return found


def from_author(store: Store, author: bytes, *, depth: int) -> dict[bytes, int]:
    """Return what came from the records of an author, which are one link away."""
    start = "SELECT cid, 1 FROM records WHERE feed = $1::BLOB"
    return _around(store, start, author, False, depth)


def outputs(store: Store) -> set[bytes]:
    """Return the entities that somebody generated as output."""
    return {row[0] for row in store._tables.run(OUTPUTS)}


def paths(store: Store, start: bytes, origin: bytes, *, depth: int) -> list[list[bytes]]:
    """Return all ways up from ``start`` to ``origin`` that pass no node twice."""
    return [row[0] for row in store._tables.run(PATHS, start, depth, origin)]


def _around(
    store: Store, start: str, parameter: bytes, leads_up: bool, depth: int
) -> dict[bytes, int]:
    by, to = ("below", "above") if leads_up else ("above", "below")
    query = AROUND.format(links=LINKS, start=start, by=by, to=to)
    return dict(store._tables.run(query, parameter, depth))
