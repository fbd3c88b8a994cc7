"""``covey-aggregator config show|check``."""

from __future__ import annotations

import os
from typing import Any

import click

from peer.cli import emit, json_option, table

COLUMNS = {"key": "OPTION", "value": "VALUE", "source": "FROM", "variable": "VARIABLE"}


@click.group()
def config() -> None:
    """Show or check this aggregator's options."""


@config.command()
@json_option
def show(as_json: bool) -> None:
    """List every option with its value, where it comes from and its variable.

    \b
    Example:  covey-aggregator config show
    """
    from aggregator.cli.access import home
    from aggregator.config import AggregatorConfig
    from peer.config import describe

    rows = describe(AggregatorConfig, home().config, os.environ)
    emit(rows, as_json, lambda rows: table(rows, COLUMNS, empty="no options"))


@config.command()
@json_option
def check(as_json: bool) -> None:
    """Check the configuration; name each mistake with its file and key.

    \b
    Example:  covey-aggregator config check
    """
    from aggregator.cli.access import home
    from aggregator.config import AggregatorConfig
    from peer.config import load

    file = home().config
    load(AggregatorConfig, file, os.environ)
    answer: dict[str, Any] = {"file": str(file), "exists": file.exists(), "ok": True}
    emit(answer, as_json, _render)


def _render(answer: dict[str, Any]) -> str:
    if answer["exists"]:
        return f"{answer['file']}: no mistakes"
    return f"{answer['file']} is not there: all defaults"
