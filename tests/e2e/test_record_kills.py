from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.records import Plan, Soak

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings(  # httpcore's, where a daemon is killed before it accepts
        "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
    ),
]


def test_kills_of_node_and_aggregator_lose_no_record_that_was_told_or_acknowledged(
    root: Path,
) -> None:
    soak = Soak(root, Plan(rounds=1, jobs=40, seed=1))

    soak.run()

    assert soak.kills == 2
    assert soak.acknowledged >= len(soak.pair.emitters.told) == 480
