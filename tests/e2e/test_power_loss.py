"""Both need mounts, so they run in a process of their own; ``make soak`` has thirty rounds."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support import mounts

LACKING = mounts.why_not(fuse=True)
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(LACKING is not None, reason=str(LACKING))]


def run(module: str, **variables: str) -> str:
    done = subprocess.run(
        mounts.command(module),
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_must_be_durable_is_there_after_a_loss_of_power() -> None:
    assert run("tests.support.durable_trial") == "nothing was lost\n"


def test_a_loss_of_power_takes_no_record_that_was_told_or_acknowledged() -> None:
    said = run("tests.soak.power", ROUNDS="1", JOBS="30", SEED="2")

    assert "none missing" in said
