"""``covey-aggregator status``."""

from __future__ import annotations

from typing import Any

import click

from aggregator.cli.access import read
from peer.cli import counted, emit, json_option, table


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show the peer, its mesh and roles, the feeds that it holds and how far they reach.

    Two aggregators of one mesh that show the same state root hold the same records.

    \b
    Example:  covey-aggregator status
    """
    emit(read("/status"), as_json, _render)


FEED_COLUMNS = {"peer": "FEED", "epoch": "EPOCH", "next_sequence": "NEXT", "header": "HEAD"}


def _render(value: dict[str, Any]) -> str:
    absent = f"{value['absent']} {'body' if value['absent'] == 1 else 'bodies'}"
    facts = {
        "peer": value["peer"],
        "mesh": value["mesh"],
        "roles": ", ".join(value["roles"]),
        "filer": "this aggregator" if value["is_filer"] else value["filer"] or "nobody known",
        "state root": value["state_root"],
        "records": f"{value['records']} held in {counted(value['bundles'], 'bundle')}, "
        f"{value['missing']} missing",
        **_damaged(value),
        "redacted": f"{value['redacted']}, {absent} absent otherwise"
        f" ({counted(value['refused_absent'], 'bundle')} refused for more),"
        f" {value['open_redactions']} named that are not here or not erased yet"
        f" ({counted(value['excessive_redactors'], 'author')} with more than count)",
        "checkpoint": _checkpoint(value["checkpoints"]),
        **_exchange(value["exchange"]),
        "holes, forks": f"{value['holes']} ({counted(value['awaited'], 'record')} awaited), "
        f"{value['forks']}",
        "errors": f"{counted(value['reports'], 'report')}, {counted(value['groups'], 'group')}, "
        f"{counted(value['issues'], 'issue')}",
        "connected": ", ".join(value["connected"]) or "no peer",
        "index": f"{value['index_lag_bytes']} of {value['journal_bytes']} journal bytes behind",
    }
    width = max(len(name) for name in facts)
    lines = [f"{name.ljust(width)}  {fact}" for name, fact in facts.items()]
    lines += [
        f"{peer['peer']} vouched at {peer['at']} for what is not all here: "
        + ", ".join(peer["lacking"])
        for peer in value["checkpoints"]
        if peer["lacking"]
    ]
    feeds = table(value["feeds"], FEED_COLUMNS, empty="no feed yet")
    return "\n".join([*lines, "", feeds])


def _damaged(value: dict[str, Any]) -> dict[str, str]:
    """What lay in bytes that the disk has damaged, while anything does; and what is lost."""
    lost: dict[str, str] = {}
    if value["lost_records"]:
        lost["lost"] = f"{counted(value['lost_records'], 'record')} for good, as their authors say"
    if not value["damaged_bundles"]:
        return lost
    records = counted(value["damaged_records"], "record")
    told = f"{records} in {counted(value['damaged_bundles'], 'bundle')}, not held any more"
    advice = "`covey-aggregator check` says which, and who may have them"
    return {"damaged": f"{told}: {advice}", **lost}


def _checkpoint(checkpoints: list[dict[str, Any]]) -> str:
    own = next((each for each in checkpoints if each["is_own"]), None)
    if own is None:
        return "none yet"
    state = {True: "all of it is here", False: "NOT ALL HERE", None: "its heads are not here"}
    return f"{own['at']}, {counted(own['records'], 'record')}; {state[own['is_held']]}"


def _exchange(told: dict[str, Any]) -> dict[str, str]:
    """What a running daemon does about records that are missing, and about authors in a hurry."""
    if not told:
        return {}
    slowed = ", ".join(told["slowed"]) or "nobody"
    return {
        "sought": f"{told['dangling']} by name in {_tries(told['tries'])}; {told['found']} found, "
        f"{told['given_up']} given up",
        "slowed": f"{slowed} now; {counted(told['put_off_bundles'], 'bundle')} put off, "
        f"{told['slowed_s']:g} s waited",
    }


def _tries(number: int) -> str:
    return "1 try" if number == 1 else f"{number} tries"
