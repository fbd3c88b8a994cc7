"""Needs mounts, so it runs in a process of its own."""

from __future__ import annotations

import subprocess

import pytest

from tests.support import mounts

LACKING = mounts.why_not()


@pytest.mark.e2e
@pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
def test_full_disks_refuse_keep_reading_and_recover_without_a_restart() -> None:
    done = subprocess.run(
        mounts.command("tests.soak.full"), capture_output=True, text=True, timeout=240, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is missing" in done.stdout
