"""The line with which every check begins, at a node and at an aggregator."""

from __future__ import annotations

from typing import Any

from peer.cli import counted


def walked_line(answer: dict[str, Any]) -> str:
    """Say what a check walked, how much of it is damaged, and what of that was given back."""
    walked = (
        f"{counted(answer['records'], 'record')} in {counted(answer['bundles'], 'bundle')} of "
        f"{counted(answer['feeds'], 'feed')}, {counted(answer['journal_bytes'], 'journal byte')}"
    )
    if answer["damaged_bytes"]:
        walked += f", {answer['damaged_bytes']} of them damaged"
    if answer["healed_bytes"]:
        walked += (
            f"; of {answer['healed_bytes']} damaged bytes no record is known to be missing:"
            " they are given back, and told no more"
        )
    return walked
