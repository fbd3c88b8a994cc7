from __future__ import annotations

import msgspec
import pytest

from node import benchmarks
from node.benchmarks.suite import SUITES, chosen, plan
from node.runner import bench_parameters
from protocols.advert import ModelOffer
from protocols.cid import CID

CID_OF = CID.of(b"manifest")
OFFERS = (
    ModelOffer("minilm", CID_OF, "embed", ("fp32", "bf16")),
    ModelOffer("noop", CID_OF, "bench.noop", ("none",)),
)


@pytest.mark.parametrize("suite", SUITES)
def test_every_parameter_of_a_suite_is_one_that_workers_take(suite: str) -> None:
    for kind, asked in SUITES[suite].items():
        schema = bench_parameters.schema_of(kind)
        content = bench_parameters.encode_values(asked, schema)

        decoded = msgspec.json.decode(msgspec.json.encode(bench_parameters.decode(content, schema)))

        assert decoded == asked
    assert SUITES[suite].keys() == benchmarks.TAKES.keys()


def test_the_quick_suite_measures_models_as_declared_and_the_full_one_in_all_precisions() -> None:
    def models(suite: str) -> list[tuple[str, str]]:
        planned = chosen(plan(suite, "w", OFFERS, is_self=False), [benchmarks.MODEL])
        return [(each.model, each.precision) for each in planned]

    assert models("quick") == [("minilm", "fp32")]
    assert models("full") == [("minilm", "fp32"), ("minilm", "bf16")]


def test_a_node_does_not_measure_the_network_to_itself() -> None:
    alone = [each.kind for each in plan("quick", "w", (), is_self=True)]
    other = [each.kind for each in plan("quick", "w", (), is_self=False)]

    assert alone == [benchmarks.COMPUTE, benchmarks.MEMORY]
    assert other == [benchmarks.COMPUTE, benchmarks.MEMORY, benchmarks.NETWORK]


def test_only_the_kinds_that_were_named_are_run() -> None:
    planned = chosen(plan("quick", "w", OFFERS, is_self=False), [benchmarks.NETWORK])

    assert [(each.kind, each.model, each.precision) for each in planned] == [
        (benchmarks.NETWORK, benchmarks.MACHINE, "none")
    ]


def test_what_a_benchmark_may_be_run_on() -> None:
    assert benchmarks.serves("embed", "embed")
    assert benchmarks.serves("embed", "bench.model")
    assert benchmarks.serves("machine", "bench.compute")
    assert not benchmarks.serves("machine", "bench.model")
    assert not benchmarks.serves("embed", "bench.compute")
    assert not benchmarks.serves("bench.noop", "bench.model")
