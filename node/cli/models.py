"""``covey models list|add|remove``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.runner.kinds import KINDS
from peer.cli import emit, json_option, note, table

if TYPE_CHECKING:
    from node.models import InstalledModel

COLUMNS = {
    "name": "NAME",
    "kind": "KIND",
    "precisions": "PRECISIONS",
    "size_mb": "MB",
    "cid": "CID",
}


def _declared(_context: object, _option: object, given: tuple[str, ...]) -> dict[str, float]:
    """Return what each ``PRECISION=NUMBER`` declares."""
    declared: dict[str, float] = {}
    for text in given:
        precision, separator, number = text.partition("=")
        try:
            declared[precision] = float(number)
        except ValueError:
            separator = ""
        if not (precision and separator):
            raise click.BadParameter(f"{text!r} is not PRECISION=NUMBER, such as fp32=1e-5")
    return declared


@click.group()
def models() -> None:
    """Install and list the models that this node can run."""


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the installed models.

    \b
    Example:  covey models list
    """
    from node.cli.connection import home
    from node.models import ModelStore

    rows = [_row(model) for model in ModelStore(home().models).list()]
    emit(
        rows, as_json, lambda rows: table(rows, COLUMNS, empty="no models: try `covey models add`")
    )


@models.command()
@click.argument("name")
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    help="A model's folder, or a .gguf file; default: NAME is packaged.",
)
@click.option(
    "--kind",
    type=click.Choice(sorted(KINDS)),
    default="embed",
    show_default=True,
    help="What the model of a folder is for.",
)
@click.option(
    "--tolerance",
    "tolerances",
    multiple=True,
    callback=_declared,
    help="PRECISION=NUMBER, with --path: how far outputs may be apart for `--verify`.",
)
@json_option
def add(
    name: str, path: Path | None, kind: str, tolerances: dict[str, float], as_json: bool
) -> None:
    """Copy a model into this node's models, pinned by digest.

    \b
    Example:  covey models add all-minilm-l6-v2
    """
    from node.cli.connection import home
    from node.models import ModelStore
    from node.runner.kinds import kind_named

    if path is None and tolerances:
        raise click.UsageError("a packaged model declares its tolerances itself: --path FOLDER")
    home().create()
    store = ModelStore(home().models)
    if path is None:
        model = store.add(name)
    else:
        model = store.add_path(path, name=name, kind=kind, tolerances=tolerances)
    if (missing := kind_named(model.kind).NEEDS.unmet()) is not None:
        note(f"this node cannot run it: {missing}")
    else:
        _tell_daemon("the running node advertises it")
    emit(_row(model), as_json, lambda row: f"{row['name']} ({row['size_mb']} MB) {row['cid']}")


@models.command()
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Delete an installed model from this node.

    \b
    Example:  covey models remove all-minilm-l6-v2
    """
    from node.cli.connection import home
    from node.models import ModelStore

    ModelStore(home().models).remove(name)
    _tell_daemon("the running node offers it no more")
    emit({"removed": name}, as_json, lambda _: f"{name} is gone")


def _tell_daemon(what_it_does: str) -> None:
    """Let a running node advertise what it now has; without one there is nobody to tell."""
    from node.cli.connection import connect
    from peer.control import DaemonDownError

    with suppress(DaemonDownError), connect() as client:
        client.post("/models/refresh")
        note(what_it_does)


def _row(model: InstalledModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "kind": model.kind,
        "precisions": list(model.precisions),
        "size_mb": round(sum(file.size for file in model.manifest.files.values()) / 1e6, 1),
        "cid": str(model.cid),
    }
