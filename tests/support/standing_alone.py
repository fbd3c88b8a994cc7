"""The installed commands where no daemon ever ran: an empty home, nothing of ours around it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.machines import BIN

BUDGET_S = 60


def alone(folder: Path, *arguments: str, command: str = "covey-aggregator") -> Any:
    """Run a command in a new, empty home and environment; return its JSON and its exit status."""
    home = folder / "alone"
    home.mkdir()
    environment = {"HOME": str(home), "COVEY_HOME": str(home), "COVEY_AGGREGATOR_HOME": str(home)}
    done = subprocess.run(
        [BIN / command, *arguments, "--json"],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=BUDGET_S,
        check=False,
    )
    left = list(home.iterdir())
    home.rmdir()  # which says that the command left nothing there
    assert not left
    return json.loads(done.stdout), done.returncode
