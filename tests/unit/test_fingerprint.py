from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from protocols.fingerprint import (
    Fingerprint,
    culprit_frame,
    fingerprint,
    is_honest,
    template_of,
    title_of,
)
from protocols.report import DEFAULT_ROOTS, ExceptionInfo, Frame
from tests.bench.grouping import agreement, b_cubed, by_fingerprint, labelled_chains
from tests.support.reports import a_report

RUN = Frame("node.worker", "Worker.run", 12)
LIBRARY = Frame("torch.nn.functional", "linear", 99)


def raised(
    message: str = "it broke",
    *frames: Frame,
    kind: str = "ValueError",
    module: str = "builtins",
) -> ExceptionInfo:
    return ExceptionInfo(kind, module, message, frames or (RUN,))


def test_labelled_faults_are_grouped_with_an_f1_of_97_percent() -> None:
    rows = labelled_chains()

    groups = [by_fingerprint(chain) for _, _, chain in rows]

    _, _, f1 = b_cubed([label for label, _, _ in rows], groups)
    assert f1 >= 0.97


def test_two_peers_of_other_paths_and_versions_agree_on_nearly_all_faults() -> None:
    assert agreement(labelled_chains(), by_fingerprint) >= 0.98


def test_the_digest_of_version_1_never_changes() -> None:
    identity = fingerprint((raised("no row 17 in 'jobs'"),))

    assert identity.fine.hex() == (
        "bb74c21265d5ce1c181cb0606689c8d94cdebfc7b3d725f6a37fe1df2958209b"
    )
    assert identity.coarse.hex() == (
        "3a34791e6814bcc1180b908c233eb5a84115e1029bd0d6365158fd973bfe1e65"
    )


def test_lines_and_outer_frames_do_not_matter() -> None:
    one = fingerprint((raised("x", Frame("node.daemon", "run", 1), RUN),))
    other = fingerprint(
        (raised("x", Frame("node.cli", "main", 5), Frame(RUN.module, RUN.function)),)
    )

    assert one.fine == other.fine


def test_the_message_distinguishes_fine_but_not_coarse() -> None:
    one = fingerprint((raised("no such model"),))
    other = fingerprint((raised("queue is full"),))

    assert one.coarse == other.coarse
    assert one.fine != other.fine


def test_the_root_cause_with_frames_decides() -> None:
    cause = raised("cause", Frame("node.models", "load", 3), kind="OSError")
    without_frames = ExceptionInfo("KeyError", "builtins", "'x'")

    wrapped = fingerprint((raised("job failed"), cause, without_frames))

    assert wrapped.fine == fingerprint((cause,)).fine
    assert wrapped.culprit == "node.models in load"
    assert wrapped.title == "ValueError: job failed"


def test_the_innermost_frame_of_our_own_packages_is_the_culprit() -> None:
    assert culprit_frame(raised("x", RUN, LIBRARY), DEFAULT_ROOTS) == RUN
    assert culprit_frame(raised("x", RUN, Frame("nodeology", "f")), DEFAULT_ROOTS) == RUN


def test_without_own_frames_plumbing_is_passed_over() -> None:
    inner = Frame("contextlib", "ExitStack.__exit__")

    assert culprit_frame(raised("x", LIBRARY, inner), DEFAULT_ROOTS) == LIBRARY
    assert culprit_frame(raised("x", inner), DEFAULT_ROOTS) == inner


def test_generated_code_is_passed_over() -> None:
    generated = Frame("node.worker", "argmap_run_7", 2, generated=True)

    assert culprit_frame(raised("x", RUN, generated), DEFAULT_ROOTS) == RUN


def test_a_comprehension_is_the_function_it_stands_in() -> None:
    python_311 = fingerprint((raised("x", Frame("node.a", "f.<locals>.g.<listcomp>")),))
    python_312 = fingerprint((raised("x", Frame("node.a", "f.g")),))

    assert python_311.fine == python_312.fine


def test_where_a_recursion_hits_its_limit_does_not_matter() -> None:
    a, b, c = (Frame("node.tree", name) for name in "abc")
    kind = "RecursionError"

    one = fingerprint((raised("maximum depth exceeded", c, *[a, b] * 20, kind=kind),))
    other = fingerprint((raised("depth exceeded in comparison", c, *[a, b] * 20, a, kind=kind),))

    assert one.fine == other.fine


def test_without_frames_type_template_and_component_decide() -> None:
    bare = ExceptionInfo("Refused", "protocols.errors", "queue of 17 is full")

    here = fingerprint((bare,), component="worker")

    assert here.fine == fingerprint((bare,), component="worker").fine
    assert here.fine != fingerprint((bare,), component="submitter").fine
    assert here.culprit == "worker"


def test_out_of_memory_on_a_gpu_is_one_fault_however_torch_calls_it() -> None:
    old = raised("CUDA out of memory. Tried to allocate 92.00 MiB (GPU 0", kind="RuntimeError")
    new = raised("CUDA out of memory. Tried to allocate 2 GiB.", kind="OutOfMemoryError")

    assert fingerprint((old,)).fine == fingerprint((new,)).fine


@pytest.mark.parametrize(
    ("message", "template"),
    [
        ("name 'x' is not defined", "name <str> is not defined"),
        ("can't open it, won't retry", "can't open it, won't retry"),
        ("Tried to allocate 8.13 GiB, 0 bytes free", "Tried to allocate <qty>, <qty> free"),
        ("found two devices, cuda:2 and cpu!", "found two devices, <dev> and <dev>!"),
        ("same device (when checking argument a)", "same device"),
        ("shapes [3, 4, 5] and [6]", "shapes [<n>] and [<n>]"),
        ("no file /home/a/x.json here", "no file <path> here"),
        ("at 0x7f3a2b by abc1234f", "at <hex> by <hex>"),
        ("at 2026-11-23T13:02:11.5Z", "at <date>"),
        ("peer 12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN left", "peer <peer> left"),
        ("took 12 ms of 5 s", "took <qty> of <qty>"),
        ("", ""),
        ("\n  \nfirst\nsecond", "first"),
    ],
)
def test_a_template_keeps_the_words_and_names_the_data(message: str, template: str) -> None:
    assert template_of("ValueError", message) == template


def test_the_message_of_a_key_error_is_data() -> None:
    assert template_of("KeyError", "'model-7'") == template_of("KeyError", "'model-8'")


def test_an_exception_group_does_not_name_the_fault() -> None:
    group = ExceptionInfo("ExceptionGroup", "builtins", "2 sub-exceptions")

    assert title_of((group, raised("it broke"))) == "ValueError: it broke"
    assert title_of((group,)) == "ExceptionGroup: 2 sub-exceptions"


def test_a_report_that_claims_another_fingerprint_is_not_honest() -> None:
    report = a_report("it broke")

    assert is_honest(report)
    forged = type(report).from_attributes({**report.to_attributes(), "fingerprint": "0" * 64})
    assert not is_honest(forged)


texts = st.text(max_size=500)
frames = st.builds(Frame, st.sampled_from(["node.a", "os", "trio._core", "x"]), texts)
infos = st.builds(ExceptionInfo, texts, texts, texts, st.lists(frames, max_size=5).map(tuple))


@given(st.lists(infos, min_size=1, max_size=6).map(tuple))
def test_any_chain_has_a_fingerprint(exceptions: tuple[ExceptionInfo, ...]) -> None:
    identity = fingerprint(exceptions)

    assert isinstance(identity, Fingerprint)
    assert len(identity.fine) == len(identity.coarse) == 32
    assert len(identity.title) <= 200
    assert "\n" not in identity.title


@pytest.mark.parametrize("piece", ["a", "(", "()", "'", "1", "a@", "/", "1.", "0x", "-", "a:", "`"])
def test_long_hostile_lines_are_cut_before_any_pattern_sees_them(piece: str) -> None:
    assert len(template_of("ValueError", piece * 100_000)) <= 2_400
