"""What a job is expected to cost where none like it was done: the right order of magnitude, for the
models that the tests measure (``tests/bench``).
"""

from __future__ import annotations

import pytest

from node.foresight import Weights, load_s, work_s

MACHINE = {"matmul_gflops": 100.0, "memory_gb_s": 10.0}
MINILM = Weights(90_868_376, "fp32", "fp32", 256)
SMOLLM2 = Weights(269_060_552, "bf16", "int4", 8_192)


def test_texts_take_two_operations_a_weight_and_token() -> None:
    seconds = work_s("embed", MINILM, 1_000, 50_000, MACHINE)

    assert seconds == pytest.approx((50_000 / 4 + 2_000) * 2 * 22.7e6 / 100e9, rel=0.01)
    assert work_s("classify", MINILM, 1_000, 50_000, MACHINE) == seconds


def test_of_a_text_no_more_is_read_than_the_model_takes() -> None:
    assert work_s("embed", MINILM, 1, 50_000, MACHINE) == pytest.approx(
        256 * 2 * 22.7e6 / 100e9, rel=0.01
    )


def test_a_token_that_is_written_waits_for_all_weights() -> None:
    seconds = work_s("generate", SMOLLM2, 500, 0, MACHINE)

    assert seconds == pytest.approx(500 * 134.5e6 / 2 / 5e9, rel=0.01)


def test_fewer_bits_a_weight_are_written_faster() -> None:
    full = Weights(269_060_552, "bf16", "fp32", 8_192)

    slow = work_s("generate", full, 500, 100, MACHINE)
    fast = work_s("generate", SMOLLM2, 500, 100, MACHINE)

    assert slow is not None
    assert fast is not None
    assert slow > 4 * fast


def test_an_accelerator_multiplies_smaller_numbers_faster() -> None:
    accelerator = {"matmul_gflops": 50e3, "matmul_bf16_gflops": 700e3, "memory_gb_s": 2_900.0}
    half = Weights(MINILM.size_bytes, "fp32", "bf16", 256)

    slow = work_s("embed", MINILM, 1_000, 50_000, accelerator)
    fast = work_s("embed", half, 1_000, 50_000, accelerator)

    assert slow is not None
    assert fast == pytest.approx(slow * 50 / 700)


def test_nothing_is_foreseen_of_what_was_not_measured_or_of_other_kinds() -> None:
    assert work_s("embed", MINILM, 1, 10, {}) is None
    assert work_s("generate", SMOLLM2, 1, 10, {"matmul_gflops": 100.0}) is None
    assert work_s("vad", MINILM, 1, 10, MACHINE) is None


def test_a_larger_model_takes_longer_to_load() -> None:
    assert 3 < load_s(MINILM) < load_s(SMOLLM2) < 5
