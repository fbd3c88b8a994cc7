from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from peer.capture import About, Origin, exceptions_of, occurrences_of, report_of
from peer.storm import StormGate
from protocols import dagcbor
from protocols.errors import JobFailed, RemoteProtocolError
from protocols.fingerprint import is_honest
from protocols.limits import (
    MAX_REPORT_BYTES,
    STORM_FINGERPRINTS_MAX,
    STORM_NEW_FINGERPRINTS_MAX,
)
from protocols.report import ExceptionInfo, Frame, Report, size_bytes
from tests.support.reports import ORIGIN, START_US, a_report, chain

CID_TEXT = "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


def caught(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except BaseException as error:  # noqa: BLE001 - whatever the test raises is what it looks at
        return error
    raise AssertionError("nothing was raised")


# The form


def test_a_report_survives_its_attributes_and_dag_cbor() -> None:
    about = About("warning", "ab" * 16, CID_TEXT, "all-minilm-l6-v2", {"phase": "load"})
    report = a_report("no space left", about=about)

    attributes = dagcbor.decode(dagcbor.encode(report.to_attributes()))

    assert Report.from_attributes(attributes) == report


def test_the_outermost_exception_lies_flat_under_opentelemetrys_names() -> None:
    cause = ExceptionInfo("OSError", "builtins", "disk full", (Frame("node.store", "write", 7),))
    report = report_of((*chain("job failed"), cause), ORIGIN, time_us=START_US)

    attributes = report.to_attributes()

    assert attributes["exception.type"] == "ValueError"
    assert attributes["exception.message"] == "job failed"
    assert [each["type"] for each in attributes["exception.causes"]] == ["OSError"]
    assert attributes["exception.causes"][0]["frames"] == [
        {"module": "node.store", "function": "write", "lineno": 7}
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"timestamp_us": -1},
        {"timestamp_us": "now"},
        {"level": "loud"},
        {"fingerprint": "xyz"},
        {"fingerprint": None},
        {"fingerprint.version": 2},
        {"exception.type": 7},
        {"exception.type": "T" * 129},
        {"exception.message": "m" * 2_001},
        {"exception.frames": [{"module": "m"}]},
        {"exception.frames": [{"module": "m", "function": "f"}] * 101},
        {"exception.causes": "none"},
        {"exception.causes": [{"type": "E"}] * 6},
        {"job.id": "not hexadecimal"},
        {"job.cid": "../../etc/passwd"},
        {"tags": {f"tag{n}": "" for n in range(9)}},
        {"tags": {"name": "v" * 65}},
        {"count": 0},
        {"count": True},
        {"in_app_include": "node"},
        {"unknown": "x" * MAX_REPORT_BYTES},
        {7: "a name that is not text"},
    ],
)
def test_anything_but_a_complete_report_is_refused(change: dict[Any, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        Report.from_attributes({**a_report().to_attributes(), **change})


@pytest.mark.parametrize("name", list(a_report().to_attributes()))
def test_a_report_without_one_of_its_names_is_refused(name: str) -> None:
    attributes = a_report().to_attributes()
    optional = {"exception.module", "exception.message", "exception.frames", "level"}
    optional |= {"component", "release"}

    del attributes[name]

    if name in optional:
        assert Report.from_attributes(attributes)
    else:
        with pytest.raises(RemoteProtocolError):
            Report.from_attributes(attributes)


def test_names_of_a_later_version_are_ignored() -> None:
    report = a_report()

    later = {**report.to_attributes(), "gpu": "H100", "exception.notes": ["more"]}

    assert Report.from_attributes(later) == report


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(st.sampled_from(list(a_report().to_attributes())), json_like)
def test_whatever_stands_in_a_field_gives_a_report_or_a_protocol_error(
    name: str, value: object
) -> None:
    try:
        report = Report.from_attributes({**a_report().to_attributes(), name: value})
    except RemoteProtocolError:
        return
    assert Report.from_attributes(report.to_attributes()) == report


wide = st.text(alphabet=st.sampled_from("a\U0001f40d\u20ac\\'\n"), max_size=4_000)
big_frames = st.builds(Frame, wide, wide, st.integers(0, 9_999))
big_infos = st.builds(
    ExceptionInfo, wide, wide, wide, st.lists(big_frames, max_size=3).map(lambda f: tuple(f * 40))
)


@given(st.lists(big_infos, min_size=1, max_size=12).map(tuple), wide)
def test_every_report_fits_its_limit_and_keeps_its_fingerprint_honest(
    exceptions: tuple[ExceptionInfo, ...], word: str
) -> None:
    tags = {f"{n}{word}": word for n in range(12)}
    origin = Origin(word, word, word, (word,) * 12)

    report = report_of(exceptions, origin, time_us=0, about=About(model=word, tags=tags))

    attributes = report.to_attributes()
    assert size_bytes(attributes) <= MAX_REPORT_BYTES
    assert Report.from_attributes(attributes) == report
    assert is_honest(report)


def test_a_long_chain_keeps_the_outermost_exception_and_the_root_cause() -> None:
    long = tuple(ExceptionInfo(f"E{n}", "", "x") for n in range(40))

    report = report_of(long, ORIGIN, time_us=0)

    assert [each.type for each in report.exceptions] == ["E0", "E35", "E36", "E37", "E38", "E39"]


# From exception to chain


def fails() -> None:
    secret = "hunter2"
    raise ValueError(f"nothing about it, {len(secret)} characters")


def test_a_frame_says_where_and_nothing_else() -> None:
    [info] = exceptions_of(caught(fails))

    frame = info.frames[-1]
    assert (frame.module, frame.function) == (__name__, "fails")
    assert frame.line > 0
    assert "hunter2" not in repr(msgspec.to_builtins(info))
    assert __file__ not in repr(msgspec.to_builtins(info))


def test_nested_functions_lose_only_locals() -> None:
    def inner() -> None:
        fails()

    [info] = exceptions_of(caught(inner))

    assert info.frames[-2].function == "test_nested_functions_lose_only_locals.inner"


def test_cause_context_and_suppression_are_followed_as_python_prints_them() -> None:
    def chained(error: Exception, cause: Exception | None) -> None:
        try:
            raise OSError("low")
        except OSError:
            raise error from cause

    assert types(caught(lambda: chained(ValueError("v"), KeyError("k")))) == [
        "ValueError",
        "KeyError",
    ]
    assert types(caught(lambda: chained(ValueError("v"), None))) == ["ValueError"]

    def implicit() -> None:
        try:
            raise OSError("low")
        except OSError:
            raise ValueError("high")  # noqa: B904 - the implicit context is what is tested

    assert types(caught(implicit)) == ["ValueError", "OSError"]


def types(error: BaseException) -> list[str]:
    return [info.type for info in exceptions_of(error)]


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one

    assert types(one) == ["ValueError", "KeyError"]


def test_each_leaf_of_a_group_is_an_occurrence_of_its_own() -> None:
    leaves = [ValueError("a"), ExceptionGroup("inner", [KeyError("b"), OSError("c")])]
    group = ExceptionGroup("outer", leaves)

    chains = [[info.type for info in chain] for chain in occurrences_of(group)]

    assert chains == [
        ["ExceptionGroup", "ValueError"],
        ["ExceptionGroup", "ExceptionGroup", "KeyError"],
        ["ExceptionGroup", "ExceptionGroup", "OSError"],
    ]


def test_of_a_large_group_eight_leaves_are_told() -> None:
    group = ExceptionGroup("many", [ValueError(str(n)) for n in range(1_000)])

    assert len(occurrences_of(group)) == 8


def test_an_exception_that_cannot_be_printed_is_still_reported() -> None:
    class EvilError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    [info] = exceptions_of(EvilError())

    assert info.type == "EvilError"
    assert info.value == "(its message could not be read)"


def test_text_that_is_no_unicode_is_still_reported() -> None:
    report = report_of(ValueError("bad \udcff name"), ORIGIN, time_us=0)

    assert dagcbor.encode(report.to_attributes())
    assert report.exceptions[0].value == "bad ? name"


def test_a_deep_recursion_keeps_fifty_outer_and_fifty_inner_frames() -> None:
    def down(n: int) -> None:
        if n == 0:
            fails()
        down(n - 1)

    [info] = exceptions_of(caught(lambda: down(300)))

    assert len(info.frames) == 100
    assert info.frames[0].function == "caught"
    assert info.frames[-1].function == "fails"


def test_a_failed_job_goes_on_with_what_its_worker_saw() -> None:
    seen_there = chain("weights are damaged", kind="ModelDamagedError")
    failed = JobFailed("the job failed", exceptions=seen_there)

    assert types(failed) == ["JobFailed", "ModelDamagedError"]


def test_code_without_a_file_is_marked_as_generated() -> None:
    error = caught(lambda: exec("def f(): raise ValueError('x')\nf()", {"__name__": "made"}))

    frame = exceptions_of(error)[0].frames[-1]

    assert frame == Frame("made", "f", 1, generated=True)


def test_messages_are_scrubbed_before_they_are_fingerprinted() -> None:
    def failing_on(name: str) -> BaseException:
        def opening() -> None:
            raise OSError(f"cannot open /home/{name}/input for {name}")

        return caught(opening)

    ours = Origin("worker", "1", private_names=frozenset({"alice"}))
    theirs = Origin("worker", "1", private_names=frozenset({"mallory"}))

    here = report_of(failing_on("alice"), ours, time_us=0)
    there = report_of(failing_on("mallory"), theirs, time_us=0)

    assert here.exceptions[-1].value == "cannot open [path] for [name]"
    assert here.fingerprint == there.fingerprint


def test_a_report_of_this_very_test_names_no_file() -> None:
    report = report_of(caught(fails), ORIGIN, time_us=0)

    text = repr(report.to_attributes())

    assert traceback.__file__.rpartition("/")[0] not in text
    assert "/" not in text


# Storms


def gate_after(gate: StormGate, reports: int, at_s: float = 0.0) -> list[Report]:
    passed: list[Report] = []
    for n in range(reports):
        passed += gate.admit(a_report(time_us=START_US + n), at_s)
    return passed


def test_a_storm_is_five_reports_and_then_a_count_each_minute() -> None:
    gate = StormGate()

    assert len(gate_after(gate, 1_000)) == 5
    assert gate.due(59.0) == ()
    [counted] = gate.due(60.0)
    assert counted.count == 995
    assert counted.time_us == START_US + 999
    assert is_honest(counted)
    assert gate.due(120.0) == ()
    assert gate.dropped == 0


def test_no_occurrence_is_lost_or_told_twice() -> None:
    gate = StormGate()

    passed = gate_after(gate, 700) + list(gate.due(60.0)) + gate_after(gate, 50, 61.0)
    passed += gate.drain()

    assert sum(report.count for report in passed) == 750
    assert gate.drain() == ()


def test_a_fault_that_rested_for_an_hour_is_told_in_full_again() -> None:
    gate = StormGate()
    gate_after(gate, 6)
    gate.drain()

    assert len(gate_after(gate, 6, at_s=3_600.0)) == 5


def test_messages_that_are_always_new_are_dropped_past_their_budget_and_counted() -> None:
    gate = StormGate()
    names = [f"f{n}" for n in range(STORM_NEW_FINGERPRINTS_MAX + 30)]

    passed = [report for name in names for report in gate.admit(a_report(function=name), 0.0)]

    assert len(passed) == STORM_NEW_FINGERPRINTS_MAX
    assert gate.dropped == 30
    assert len(gate.admit(a_report(function="later"), 300.0)) == 1


def test_whoever_makes_room_leaves_its_count() -> None:
    gate = StormGate()
    gate_after(gate, 7)

    passed: list[Report] = []
    for n in range(STORM_FINGERPRINTS_MAX):
        window_s = 300.0 * (n // STORM_NEW_FINGERPRINTS_MAX + 1)
        passed += gate.admit(a_report(function=f"g{n}"), window_s)

    assert [report.count for report in passed if report.count > 1] == [2]
    assert gate.dropped == 0
