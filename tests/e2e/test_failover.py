from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.failover import Failover

pytestmark = pytest.mark.e2e


def test_jobs_survive_a_killed_and_a_frozen_worker_and_records_tell_of_each_attempt(
    root: Path,
) -> None:
    failover = Failover(root, jobs=120)

    failover.run()

    assert len(failover.of_kind("job.accepted")) == len(failover.job_ids) >= 120
