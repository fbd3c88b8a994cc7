from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

import aggregator
import node
import peer
import protocols
from aggregator.cli import aggregator as aggregator_command
from node.cli import covey

ROOT = Path(__file__).parents[2]
HEAVY = {"libp2p", "torch", "duckdb", "pyarrow", "trio"}


def commands(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
    context = click.Context(group)
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += commands(command, f"{path} {name}")
        else:
            found.append((f"{path} {name}", command))
    return found


ALL = [*commands(covey, "covey"), *commands(aggregator_command, "covey-aggregator")]


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_command_has_help_with_an_example_and_stands_in_the_docs(
    name: str, command: click.Command
) -> None:
    docs = (ROOT / "README.md").read_text() + (ROOT / "docs/operations.md").read_text()

    assert "Example:" in (command.help or "")
    assert name in (command.help or "")
    assert name in docs


@pytest.mark.parametrize("entry", ["node.cli", "aggregator.cli"])
def test_help_imports_nothing_heavy(entry: str) -> None:
    program = (
        f"import sys; sys.argv = ['x', '--help']\nfrom {entry} import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )

    assert HEAVY.isdisjoint(done.stderr.split())
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("package", [protocols, peer, node, aggregator])
def test_the_packages_imported_are_ours(package: object) -> None:
    assert Path(getattr(package, "__file__", "")).is_relative_to(ROOT)
