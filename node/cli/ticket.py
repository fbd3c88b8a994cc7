"""``covey ticket``."""

from __future__ import annotations

import re

import click

from peer.cli import RoleList, emit, json_option

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Duration(click.ParamType[float]):
    """A span of time such as ``90s``, ``15m``, ``1h`` or ``7d``; the value is in seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 1h or 7d", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


@click.command()
@click.option(
    "--role",
    "roles",
    type=RoleList(),
    default="worker,submitter",
    show_default=True,
    help="What the newcomer may be, with commas: worker, submitter, aggregator, observer; "
    "where the root key is, admitter too.",
)
@click.option(
    "--ttl", type=Duration(), default="1h", show_default=True, help="How long it is good."
)
@json_option
def ticket(roles: tuple[str, ...], ttl: float, as_json: bool) -> None:
    """Print a join ticket that one machine may use once.

    \b
    Example:  covey ticket --role worker,submitter --ttl 1h
    """
    from node.cli.connection import connect

    body = {"roles": roles, "ttl_s": ttl}
    with connect() as client:
        emit(client.post("/ticket", body), as_json, lambda answer: answer["ticket"])
