from __future__ import annotations

import pytest

from node import benchmarks
from node.benchmarks.suite import OF_MODELS, SUITES, chosen, plan
from node.needs import serves
from node.runner import bench_parameters
from node.runner.kinds import bench_model, runs_on
from protocols.advert import ModelOffer
from protocols.cid import CID

CID_OF = CID.of(b"manifest")
OFFERS = (
    ModelOffer("minilm", CID_OF, "embed", ("fp32", "bf16")),
    ModelOffer("noop", CID_OF, "bench.noop", ("none",)),
    ModelOffer("theirs", CID_OF, "generate", ("upstream",), backend="openai"),
    ModelOffer("smollm2", CID_OF, "generate", ("int4", "fp32")),
)


@pytest.mark.parametrize("suite", SUITES)
def test_every_parameter_of_a_suite_is_one_that_workers_take(suite: str) -> None:
    models = [(benchmarks.MODEL, asked) for asked in OF_MODELS[suite].values()]
    for kind, asked in [*SUITES[suite].items(), *models]:
        schema = bench_parameters.schema_of(kind)
        content = bench_parameters.encode_values(asked, schema)

        assert bench_parameters.told(bench_parameters.decode(content, schema)) == asked
    assert {*SUITES[suite], benchmarks.MODEL} == benchmarks.BENCHMARKS
    assert OF_MODELS[suite].keys() == set(bench_model.MODEL_KINDS) == bench_model.PROBES.keys()


def test_the_quick_suite_measures_models_as_declared_and_the_full_one_in_all_precisions() -> None:
    def models(suite: str) -> list[tuple[str, str]]:
        planned = chosen(plan(suite, "w", OFFERS, is_self=False), [benchmarks.MODEL])
        return [(each.model, each.precision) for each in planned]

    assert models("quick") == [("minilm", "fp32"), ("smollm2", "int4")]
    assert models("full") == [
        *(("minilm", precision) for precision in ("fp32", "bf16")),
        *(("smollm2", precision) for precision in ("int4", "fp32")),
    ]


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
    minilm, _, theirs, smollm2 = OFFERS

    assert serves(minilm, "bench.model")
    assert serves(smollm2, "bench.model")
    assert not serves(theirs, "bench.model")
    assert runs_on("bench.compute", "machine")
    assert not runs_on("bench.model", "machine")
    assert not runs_on("bench.compute", "embed")
    assert not runs_on("bench.model", "bench.noop")
