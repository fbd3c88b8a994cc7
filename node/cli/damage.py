"""How commands tell that the disk has damaged what they show."""

from __future__ import annotations

from typing import Any

from peer.cli import note


def note_damage(rows: list[dict[str, Any]]) -> None:
    """Say on stderr which of these rows only the index remembers, and what to do."""
    damaged = [row for row in rows if row["damaged"]]
    if not damaged:
        return
    if len(damaged) == 1:
        told = f"{damaged[0]['cid']} is damaged on this disk, and shown as the index remembers it"
    else:
        told = f"{len(damaged)} of these records are damaged on this disk, and shown as the index"
        told += " remembers them"
    holders = sorted({peer for row in damaged for peer in row["damaged"]["fetch_from"]})
    kept = f"; {', '.join(holders)} may have what is gone" if holders else ""
    note(
        f"covey: {told}{kept}\n  hint: `covey records check` says what is wrong, and asks whoever"
        " may have it"
    )
