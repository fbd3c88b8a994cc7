from __future__ import annotations

from typing import Any

import msgspec
import pytest

from node.needs import basis_of
from tests.support.jobs import JobMesh

AT_US = 1_764_226_980_000_000


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({}, "advert 80.4 GFLOP/s"),
        ({"matmul_n": 28}, "advert 80.4 GFLOP/s of 28 samples"),
        ({"matmul_n": 1}, "advert 80.4 GFLOP/s of 1 sample"),
        (
            {"matmul_n": 28, "measured_at_us": AT_US},
            "advert 80.4 GFLOP/s of 28 samples, 2025-11-27 07:03 UTC",
        ),
        ({"matmul_n": "28", "measured_at_us": "now"}, "advert 80.4 GFLOP/s"),
        ({"matmul_n": True, "measured_at_us": -1}, "advert 80.4 GFLOP/s"),
        ({"matmul_n": 1 << 62, "measured_at_us": 1 << 62}, "advert 80.4 GFLOP/s"),
    ],
)
async def test_a_stated_speed_says_what_it_rests_on(stated: dict[str, Any], says: str) -> None:
    advert = JobMesh().add("worker").advert().advert
    capabilities = {"matmul_gflops": 80.4, **stated}

    assert basis_of(msgspec.structs.replace(advert, capabilities=capabilities)) == says
