from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.feeds import open_journal


def test_nothing_that_was_told_durable_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    told: set[bytes] = set()

    for round_ in range(5):
        told |= _append_until_killed(path, 10_000 * round_, entries=50 + 7 * round_)
        journal = open_journal(path)
        kept = [body for *_, body in journal.scan()]
        journal.close()

        assert told <= set(kept)
        assert len(kept) == len(set(kept))


def _append_until_killed(path: Path, first: int, entries: int) -> set[bytes]:
    """Return what the process told before it was killed."""
    command = [sys.executable, "-m", "tests.support.appending", str(path), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = {process.stdout.readline().strip() for _ in range(entries)}
        process.kill()
        told |= {line.strip() for line in process.stdout if line.endswith(b"\n")}
    return told
