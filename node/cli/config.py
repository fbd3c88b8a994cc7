"""``covey config show|check``."""

from __future__ import annotations

import os
from typing import Any

import click

from peer.cli import emit, json_option, table


@click.group()
def config() -> None:
    """Show or check this node's options."""


@config.command()
@json_option
def show(as_json: bool) -> None:
    """List every option with its value, where it comes from and its variable.

    \b
    Example:  covey config show
    """
    from node.cli.connection import home
    from node.config import NodeConfig
    from peer.config import describe

    rows = describe(NodeConfig, home().config, os.environ)
    columns = {"key": "OPTION", "value": "VALUE", "source": "FROM", "variable": "VARIABLE"}
    emit(rows, as_json, lambda rows: table(rows, columns, empty="no options"))


@config.command()
@json_option
def check(as_json: bool) -> None:
    """Check the configuration; name each mistake with its file and key.

    \b
    Example:  covey config check
    """
    from node.cli.connection import home
    from node.config import NodeConfig
    from peer.config import load

    file = home().config
    load(NodeConfig, file, os.environ)
    answer: dict[str, Any] = {"file": str(file), "exists": file.exists(), "ok": True}
    emit(
        answer,
        as_json,
        lambda _: f"{file}: no mistakes" if file.exists() else f"{file} is not there: all defaults",
    )
