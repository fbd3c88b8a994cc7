from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.kills import Plan, Soak

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings(  # httpcore's, where a daemon is killed before it accepts
        "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
    ),
]


def test_kills_of_every_process_lose_no_result_and_accept_none_twice(root: Path) -> None:
    soak = Soak(root, Plan(jobs=30, rounds=1, seed=1))

    soak.run()

    assert soak.tally.kills == {"submitter": 1, "worker": 1, "aggregator": 1, "runner": 1}
    assert len(soak.tally.outputs) == 30
