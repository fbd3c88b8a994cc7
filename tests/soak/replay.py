"""How a soak says what it was: its seed, its commit, and the command that does it again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


def variables(**defaults: int) -> dict[str, int]:
    """Return each variable as the environment has it, or else its default."""
    return {name: int(os.environ.get(name, value)) for name, value in defaults.items()}


@contextmanager
def replayable(soak: str, values: dict[str, int]) -> Iterator[None]:
    """Print what ``tests.soak.<soak>`` runs with and how to do it again: before it starts, and once
    more when it fails.
    """
    seed = values.get("SEED", "none")
    told = f"{soak}: seed {seed}, commit {commit()}; again: {again(soak, values)}"
    print(told, flush=True)
    try:
        yield
    except BaseException:
        print(f"failed: {told}", flush=True)
        raise


def again(soak: str, values: dict[str, int]) -> str:
    """Return the command that runs ``tests.soak.<soak>`` with these variables."""
    settings = "".join(f"{name}={value} " for name, value in values.items())
    return f"{settings}.venv/bin/python -m tests.soak.{soak}"


def commit() -> str:
    """Return the commit of the working tree, marked ``-dirty`` when it has changes besides."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
