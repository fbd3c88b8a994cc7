"""``covey doctor``."""

from __future__ import annotations

from typing import Any

import click

from peer.cli import emit, json_option, table

COLUMNS = {"peer": "PEER", "found_by": "FOUND BY", "state": "STATE", "last_error": "LAST ERROR"}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say which way of discovery found whom, and why one did not; whether the upstream is there;
    and whether aggregators still vouch for the records that they acknowledged.

    \b
    Example:  covey doctor
    """
    from node.cli.connection import connect

    with connect() as client:
        emit(client.get("/doctor"), as_json, _render)


def _render(answer: dict[str, Any]) -> str:
    methods = "\n".join(f"{name:<12}{state}" for name, state in answer["methods"].items())
    if (upstream := answer["upstream"]) is not None:
        methods += f"\n{'upstream':<12}{_upstream(upstream)}"
    for kept in answer["checkpoints"]:
        methods += f"\n{'checkpoint':<12}{_kept(kept)}"
    return f"{methods}\n\n" + table(answer["peers"], COLUMNS, empty="nobody was found yet")


def _kept(kept: dict[str, Any]) -> str:
    """Say whether an aggregator's last checkpoint goes with what it said before."""
    if not kept["faults"]:
        upto = f"our records below {kept['next_sequence']}"
        return f"{kept['aggregator']} vouches for {upto}, {kept['at']}"
    more = f"; and {kept['more_faults']} more" if kept["more_faults"] else ""
    return f"{kept['aggregator']} CONTRADICTS ITSELF: {'; '.join(kept['faults'])}{more}"


def _upstream(upstream: dict[str, Any]) -> str:
    if upstream["state"] != "up":
        return f"{upstream['url']} is down: {upstream['reason']}"
    left_out = "".join(f"; {name}: {why}" for name, why in upstream["left_out"].items())
    return f"{upstream['url']} is up with {', '.join(upstream['models']) or 'no model'}{left_out}"
