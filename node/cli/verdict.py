"""What a command says about a result that other peers were to verify, and its exit status."""

from __future__ import annotations

import sys
from typing import Any, Final

from peer.cli import note, printable

EXIT_DIFFERS: Final = 1
EXIT_UNVERIFIED: Final = 3  # the result is there and nothing speaks against it: a script may go on


def tell_verdict(summary: dict[str, Any], *, as_json: bool) -> None:
    """Say on stderr how a verification ended, and exit unless the others agree; does nothing where
    none was asked for. ``as_json`` has said it already.
    """
    told: dict[str, Any] | None = summary.get("verification")
    if told is None:
        return
    if not as_json:
        note(printable(sentence(told)))
    status = {"agreed": 0, "differs": EXIT_DIFFERS}.get(told["verdict"], EXIT_UNVERIFIED)
    if status:
        sys.exit(status)


def sentence(told: dict[str, Any]) -> str:
    """Return a verification in one line."""
    peers: list[dict[str, Any]] = told["peers"]
    agreed = sum(each["verdict"] == "agreed" for each in peers)
    parts = [f"{told['verdict']}: {agreed} of {told['wanted']} other peers agree{_apart(told)}"]
    parts += [
        f"{each['peer']} {each['verdict']} ({each['reason'] or 'no reason given'})"
        for each in peers
        if each["verdict"] != "agreed"
    ]
    if told["outvoted"]:
        parts.append(f"outvoted: {', '.join(told['outvoted'])}")
    if told["reason"]:
        parts.append(told["reason"])
    return "; ".join(parts)


def _apart(told: dict[str, Any]) -> str:
    known = [each["difference"] for each in told["peers"] if each["difference"] is not None]
    if not known:
        return ""
    return f" (largest difference {max(known):.2g}, tolerance {told['tolerance']:.2g})"
