from __future__ import annotations

from typing import Any

import msgspec
import pytest

from node.needs import LEAST_TRUST, STALE_S, basis_of, trust_in
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


async def test_a_stated_speed_is_trusted_for_many_samples_and_while_it_is_fresh() -> None:
    advert = JobMesh().add("worker").advert().advert

    def trust(**stated: Any) -> float:
        capabilities = {"matmul_gflops": 80.4, **stated}
        return trust_in(msgspec.structs.replace(advert, capabilities=capabilities), AT_US)

    fresh = [trust(matmul_n=n, measured_at_us=AT_US) for n in (1, 5, 28, 1_000)]
    day_us = 86_400_000_000
    aged = [trust(matmul_n=28, measured_at_us=AT_US - days * day_us) for days in (0, 1, 7)]
    ancient_us = AT_US - int(10 * STALE_S * 1e6)

    assert fresh == sorted(fresh)
    assert fresh[-1] > 0.99
    assert aged == sorted(aged, reverse=True)
    assert trust(matmul_n=28, measured_at_us=ancient_us) == LEAST_TRUST
    assert trust(matmul_n=28, measured_at_us=AT_US + 7 * day_us) == aged[0], "of the future is now"
    for nonsense in ({}, {"matmul_n": "28"}, {"matmul_n": -1, "measured_at_us": -1}):
        assert trust(**nonsense) == LEAST_TRUST
