"""``covey-aggregator rebuild``."""

from __future__ import annotations

from typing import Any

import click

from aggregator.cli.access import act
from peer.cli import emit, json_option


@click.command()
@json_option
def rebuild(as_json: bool) -> None:
    """Delete the index and make it anew from the journal, which holds everything.

    A running daemon does it without stopping; answers before and after are the same.

    \b
    Example:  covey-aggregator rebuild
    """
    emit(act("/rebuild"), as_json, _render)


def _render(value: dict[str, Any]) -> str:
    return f"rebuilt: {value['records']} records in {value['bundles']} bundles"
