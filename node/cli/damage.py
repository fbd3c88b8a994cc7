"""How commands tell that the disk has damaged what they show."""

from __future__ import annotations

from typing import Any

from peer.cli import counted, note, printable
from peer.walked_line import walked_line


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


def render_check(answer: dict[str, Any]) -> str:
    """Write what a check found as lines."""
    lines = [walked_line(answer), *map(_finding, answer["findings"])]
    if answer["ok"]:
        lines.append("nothing is wrong")
    if answer["fetched"]:
        lines.append(f"{counted(answer['fetched'], 'bundle')} came again: check once more")
    return "\n".join(map(printable, lines))


def _finding(finding: dict[str, Any]) -> str:
    holders: list[str] = finding["fetch_from"]
    if holders:
        source = f"; may be fetched from {', '.join(holders)}"
    else:
        source = "; nobody is known who has it" if finding["feed"] else ""
    return f"{finding['code']}: {finding['message']}{source}"
