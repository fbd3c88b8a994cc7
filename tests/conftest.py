"""How the tests are spread over the processors, and their virtual clock."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from trio.testing import MockClock

from tests.support.patient_clock import patient_clock

END_TO_END = "/tests/e2e/"


def pytest_configure(config: pytest.Config) -> None:
    """Leave the order of files to us."""
    config.option.loadscopereorder = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many more than there are processors: the tests of real daemons wait half the time."""
    cores = len(os.sched_getaffinity(0))
    return cores + (cores + 1) // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker has one of them left at the end."""
    items.sort(key=lambda item: END_TO_END not in item.path.as_posix())


@pytest.fixture
def autojump_clock() -> Generator[MockClock]:
    """Virtual time that jumps when all tasks wait, instead of the plugin's own: see there."""
    with patient_clock() as clock:
        yield clock
