"""``covey peers``."""

from __future__ import annotations

from typing import Any

import click

from node.requirements import SPEED, accelerators, number
from peer.cli import emit, json_option, table

COLUMNS = {
    "peer": "PEER",
    "state": "STATE",
    "roles": "ROLES",
    "hardware": "HARDWARE (measured)",
    "models": "MODELS",
    "addresses": "ADDRESSES",
}


@click.command()
@json_option
def peers(as_json: bool) -> None:
    """List the mesh's peers as this node knows them: who is there, with what.

    \b
    Example:  covey peers
    """
    from node.cli.connection import connect

    with connect() as client:
        emit(client.get("/peers"), as_json, _render)


def _render(answer: list[dict[str, Any]]) -> str:
    rows = [{**row, "state": _state(row), "hardware": _hardware(row)} for row in answer]
    return table(rows, COLUMNS, empty="no peers are known yet")


def _state(row: dict[str, Any]) -> str:
    return "self" if row["is_self"] else "up" if row["is_connected"] else "away"


def _hardware(row: dict[str, Any]) -> str:
    capabilities = row["capabilities"]
    if not capabilities:
        return "not measured yet" if "worker" in row["roles"] else "-"
    parts = [
        f"{capabilities[key]}{unit}" for key, unit in _FIGURES.items() if capabilities.get(key)
    ]
    parts += map(_accelerator, accelerators(capabilities))
    return ", ".join(parts) or "-"


def _accelerator(stated: dict[str, object]) -> str:
    count = number(stated.get("count"))
    parts = [f"{count:.0f} × " * (count > 1) + str(stated.get("name", stated.get("backend")))]
    if memory_gb := number(stated.get("memory_gb")):
        parts.append(f"{memory_gb:g} GB")
    if gflops := number(stated.get(SPEED)):
        parts.append(f"{gflops / 1e3:.1f} TFLOP/s")
    return ", ".join(parts)


_FIGURES = {
    "cpu_model": "",
    "cores": " cores",
    "memory_gb": " GB",
    "matmul_gflops": " GFLOP/s",
    "memory_gb_s": " GB/s",
}
