from __future__ import annotations

import math
import statistics
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given, strategies as st

from node import benchmarks
from node.benchmarks.statement import Statement, figures_of
from node.runner import bench_parameters
from node.runner.kinds import (
    BadInputError,
    bench_compute,
    bench_memory,
    bench_model,
    bench_network,
    kind_named,
)
from protocols import dagcbor
from protocols.benchmark import Figure, decode_figures, encode_figures, figure_of
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import MAX_BENCH_FIGURES, MAX_BENCH_OUTPUT_BYTES, MAX_BENCH_SAMPLES
from tests.support.benchmarks import figure, statement

samples = st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=40)
names = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
figures = st.builds(
    figure_of,
    names,
    samples,
    is_higher_better=st.booleans(),
    threads=st.integers(0, 512),
)


# Statistics


def test_a_figure_of_few_samples_says_how_few() -> None:
    one = figure_of("wait_ms", [7.0], is_higher_better=False)

    assert (one.n, one.least, one.median, one.p99, one.most) == (1, 7.0, 7.0, 7.0, 7.0)
    assert one.spread == 0


def test_ranks_lie_between_neighbouring_samples() -> None:
    hundred = figure_of("wait_ms", [float(n) for n in range(101, 0, -1)], is_higher_better=False)

    assert (hundred.q1, hundred.median, hundred.q3) == (26.0, 51.0, 76.0)
    assert (hundred.p95, hundred.p99) == (96.0, 100.0)
    assert hundred.spread == pytest.approx(50 / 51)


@given(st.lists(st.floats(1e-6, 1e9), min_size=2, max_size=40))
def test_quartiles_are_those_of_the_standard_library(values: list[float]) -> None:
    made = figure_of("x_s", values, is_higher_better=True)

    expected = statistics.quantiles(values, n=4, method="inclusive")
    assert [made.q1, made.median, made.q3] == pytest.approx(expected, rel=1e-5)
    assert (made.least, made.most) == pytest.approx((min(values), max(values)), rel=1e-5)


# Output


@given(st.lists(figures, min_size=1, max_size=6, unique_by=lambda each: each.name))
def test_figures_survive_the_round_trip(made: list[Figure]) -> None:
    assert decode_figures(encode_figures(made)) == tuple(made)


@given(st.binary(max_size=200))
def test_any_bytes_are_figures_or_break_the_protocol(content: bytes) -> None:
    try:
        decoded = decode_figures(content)
    except RemoteProtocolError:
        return
    assert encode_figures(decoded) == content


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=12),
    max_leaves=30,
)


@given(json_like)
def test_any_value_is_figures_or_breaks_the_protocol(value: Any) -> None:
    content = cbor2.dumps(value)
    try:
        decode_figures(content)
    except RemoteProtocolError:
        return
    raise AssertionError("nothing drawn here has figures of thirteen fields")


def fields(**changes: object) -> list[Any]:
    known: dict[str, Any] = msgspec.structs.asdict(figure("x_s", 1.0, 2.0, 3.0)) | changes
    return list(known.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 0},
        {"n": MAX_BENCH_SAMPLES + 1},
        {"n": True},
        {"name": ""},
        {"name": "x\n"},
        {"name": "x" * 65},
        {"median": 0.0},
        {"median": -2.0},
        {"most": 1e300},
        {"q3": 1.0, "median": 2.0},
        {"is_higher_better": 1},
        {"threads": -1},
        {"median": "2"},
    ],
)
def test_a_figure_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    assert decode_figures(dagcbor.encode([1, [fields()]]))
    with pytest.raises(RemoteProtocolError):
        decode_figures(dagcbor.encode([1, [fields(**changes)]]))


def test_numbers_that_are_not_finite_are_refused_in_either_direction() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_figures(cbor2.dumps([1, [fields(most=math.inf)]]))
    with pytest.raises(ValueError, match="ascend"):
        figure_of("x_s", [1.0, math.nan], is_higher_better=True)


@pytest.mark.parametrize(
    "value",
    [
        [1, []],
        [2, [fields()]],
        [0, [fields()]],
        [1, [fields(), fields()]],
        [1, [fields(name=f"x{n}_s") for n in range(MAX_BENCH_FIGURES + 1)]],
        [1],
        {"figures": []},
    ],
    ids=["none", "newer", "older", "one name twice", "too many", "short", "map"],
)
def test_an_output_that_cannot_be_is_refused(value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_figures(dagcbor.encode(value))


def test_an_output_is_bounded_before_it_is_decoded() -> None:
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        decode_figures(bytes(MAX_BENCH_OUTPUT_BYTES + 1))
    with pytest.raises(LocalProtocolError):
        encode_figures([])


def test_the_largest_output_that_is_allowed_fits() -> None:
    largest = [
        figure_of(f"{n:064d}".replace("0", "x", 1), [123.456, 1234.56], is_higher_better=True)
        for n in range(MAX_BENCH_FIGURES)
    ]

    assert decode_figures(encode_figures(largest)) == tuple(largest)


# Input


def test_parameters_come_as_options_and_as_values() -> None:
    content = bench_model.encode_input([], {"seconds": 2, "batches": ("1", "4")})

    asked = bench_parameters.decode(content, bench_model.Parameters)
    assert asked == bench_model.Parameters(seconds=2.0, batches=(1, 4))
    assert content == bench_model.encode_input([], {"batches": [1, 4], "seconds": 2.0})


def test_without_any_the_defaults_hold() -> None:
    content = bench_memory.encode_input([])

    asked = bench_parameters.decode(content, bench_memory.Parameters)
    assert content == dagcbor.encode({})
    assert asked == bench_memory.Parameters()
    assert bench_parameters.told(asked) == {"seconds": 0.5, "copy_mb": 64}


@pytest.mark.parametrize("kind", sorted(benchmarks.BENCHMARKS))
def test_the_options_of_a_benchmark_are_those_of_its_inputs(kind: str) -> None:
    told = bench_parameters.told(bench_parameters.schema_of(kind)())

    options = {each.name: each.default for each in kind_named(kind).PARAMETERS}

    assert options.keys() == told.keys()
    assert options.pop("batches", ("1", "8", "32")) == ("1", "8", "32")
    assert {name: told[name] for name in options} == options


def test_a_benchmark_takes_no_items() -> None:
    with pytest.raises(BadInputError, match=r"bench\.compute takes no items") as refused:
        bench_compute.encode_input(["seconds=2"])

    assert refused.value.hint == "it can be told --seconds --size"


@pytest.mark.parametrize(
    ("kind", "name", "value", "says"),
    [
        (bench_compute, "sise", 64, "no parameter 'sise'"),
        (bench_compute, "size", 63, "size"),
        (bench_compute, "size", 4096, "size"),
        (bench_compute, "seconds", "soon", "seconds"),
        (bench_compute, "seconds", math.nan, "seconds"),
        (bench_compute, "seconds", 1e9, "seconds"),
        (bench_memory, "copy_mb", 0, "copy_mb"),
        (bench_memory, "copy_mb", 4096, "copy_mb"),
        (bench_model, "batches", ("1", "1"), "one size"),
        (bench_model, "batches", ("1", "0"), "batches"),
        (bench_model, "batches", ("1", "many"), "batches"),
        (bench_model, "batches", (), "batches"),
        (bench_model, "words", 100_000, "words"),
        (bench_model, "tokens", 1, "tokens"),
        (bench_network, "rounds", 1_000, "rounds"),
        (bench_network, "pings", "", "pings"),
    ],
)
def test_a_parameter_that_cannot_be_is_named(kind: Any, name: str, value: Any, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        kind.encode_input([], {name: value})


@given(st.binary(max_size=100))
def test_any_bytes_are_parameters_or_bad_input(content: bytes) -> None:
    try:
        bench_parameters.decode(content, bench_compute.Parameters)
    except BadInputError:
        return
    assert dagcbor.encode(dagcbor.decode(content)) == content


@pytest.mark.parametrize("value", [{}, {"sise": 1}, {"size": 1e9}, [], "size"])
def test_a_worker_checks_parameters_too(value: Any) -> None:
    content = dagcbor.encode(value)

    if value == {}:
        assert (
            bench_parameters.decode(content, bench_compute.Parameters) == bench_compute.Parameters()
        )
        return
    with pytest.raises(BadInputError):
        bench_parameters.decode(content, bench_compute.Parameters)


def test_the_items_of_a_job_are_as_many_as_asked_for_and_differ() -> None:
    items = bench_model.texts(bench_model.Parameters(words=5), 12)

    assert len(items) == len(set(items)) == 12
    assert {len(item.split()) for item in items} == {5}


# Statements


def test_a_statement_survives_its_record_and_json() -> None:
    stated = statement(figures=(figure("a_s", 1.0, 2.0, 3.0), figure("b_ms", 4.0)))

    again = Statement.of(dagcbor.decode(dagcbor.encode(stated.attributes())))

    assert again == stated
    assert tuple(figures_of(again.told()).values()) == stated.figures


def test_a_record_that_states_no_benchmark_breaks_the_protocol() -> None:
    with pytest.raises(RemoteProtocolError):
        Statement.of({"kind": "bench.compute"})
