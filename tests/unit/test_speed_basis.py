from __future__ import annotations

from typing import Any

import msgspec
import pytest

from node.cli.peers import _hardware
from node.needs import LEAST_TRUST, STALE_S, basis_of, stated_speed, trust_in
from node.requirements import Requirements, why_unmet
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

    assert basis_of(msgspec.structs.replace(advert, capabilities=capabilities), "embed") == says


async def test_jobs_that_an_accelerator_computes_go_by_what_it_does() -> None:
    advert = JobMesh().add("worker").advert().advert
    fast = {"backend": "cuda", "memory_gb": 80.0, "matmul_gflops": 50_000.0, "matmul_n": 12}
    told: dict[str, Any] = {"matmul_gflops": 80.4, "matmul_n": 3, "measured_at_us": AT_US}
    told |= {"memory_gb": 8.0, "accelerators": [fast]}
    advert = msgspec.structs.replace(advert, capabilities=told)

    assert stated_speed(advert, "embed") == 50_000.0
    assert basis_of(advert, "embed").startswith("advert 50000 GFLOP/s of 12 samples, ")
    assert trust_in(advert, "embed", AT_US) > trust_in(advert, "vad", AT_US)
    assert stated_speed(advert, "vad") == 80.4, "its engine computes on the processor"
    assert why_unmet(Requirements(min_speed=40_000.0), told) is None
    assert why_unmet(Requirements(min_speed=40_000.0, device="cuda"), told) is None
    assert why_unmet(Requirements(min_speed=100.0, device="cpu"), told) == (
        "computes 80.4 GFLOP/s, not 100"
    )


async def test_a_stated_speed_is_trusted_for_many_samples_and_while_it_is_fresh() -> None:
    advert = JobMesh().add("worker").advert().advert

    def trust(**stated: Any) -> float:
        capabilities = {"matmul_gflops": 80.4, **stated}
        return trust_in(msgspec.structs.replace(advert, capabilities=capabilities), "embed", AT_US)

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


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"backend": "cuda", "name": "H100", "memory_gb": 85.0, "count": 1}, "H100, 85 GB"),
        (
            {"name": "H100", "memory_gb": 85.0, "count": 8, "matmul_gflops": 51_286.0},
            "8 × H100, 85 GB, 51.3 TFLOP/s",
        ),
        ({"backend": "cuda", "memory_gb": "much", "count": [], "matmul_gflops": -1}, "cuda"),
        (7, "-"),
    ],
)
def test_peers_shows_what_can_be_understood_of_accelerators(stated: object, says: str) -> None:
    assert _hardware({"roles": ["worker"], "capabilities": {"accelerators": [stated]}}) == says
